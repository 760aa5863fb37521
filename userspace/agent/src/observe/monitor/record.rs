//! One event, for people and for programs.

use std::net::IpAddr;
use std::time::Duration;

use diolkos_abi::address::Address;
use diolkos_abi::counter::{DropReason, FIRST_DROP, Hook, Verdict};
use diolkos_abi::event::{EVENT_PACKET, Event};
use serde::Serialize;

use super::decode::{self, Decoded};
use crate::observe::text::{address, end, protocol_name};

/// A packet or system call at one hook.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Record {
    /// Seconds since 1970.
    pub time: f64,
    pub hook: &'static str,
    /// The verdict, of what went on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<&'static str>,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<u16>,
    /// `TCP`, `UDP`, ..., a number, or what is no IP.
    pub protocol: String,
    /// TCP flags, ICMP type and code, or the place of a fragment.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Bytes; nothing of a system call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<u16>,
    /// Index of the hook's device; nothing of a system call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ifindex: Option<u32>,
}

/// What is shown of all that is told.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub hook: Option<Hook>,
    /// Of either side.
    pub address: Option<IpAddr>,
    /// Of either side.
    pub port: Option<u16>,
}

impl Filter {
    pub fn takes(&self, record: &Record) -> bool {
        let is_one =
            |wanted: Option<IpAddr>| wanted.is_none() || record.source == wanted || record.destination == wanted;
        let is_port =
            |wanted: Option<u16>| wanted.is_none() || record.source_port == wanted || record.destination_port == wanted;
        self.hook.is_none_or(|hook| hook.name() == record.hook) && is_one(self.address) && is_port(self.port)
    }
}

impl Record {
    /// Nothing when hook or outcome are unknown: another release's.
    pub(super) fn of(event: &Event, epoch: Duration) -> Option<Self> {
        let hook = Hook::ALL.into_iter().find(|hook| *hook as u32 == u32::from(event.hook))?;
        let outcome = u32::from(event.outcome);
        let verdict = Verdict::ALL.into_iter().find(|verdict| *verdict as u32 == outcome).map(Verdict::name);
        let drop =
            DropReason::ALL.into_iter().find(|reason| *reason as u32 + FIRST_DROP == outcome).map(DropReason::name);
        verdict.or(drop)?;
        let mut record = Self {
            time: (epoch + Duration::from_nanos(event.time)).as_secs_f64(),
            hook: hook.name(),
            verdict,
            drop,
            source: None,
            source_port: None,
            destination: None,
            destination_port: None,
            protocol: String::new(),
            detail: String::new(),
            length: None,
            ifindex: None,
        };
        match is_call(hook) {
            true => record.call(event),
            false => record.packet(event),
        }
        Some(record)
    }

    fn call(&mut self, event: &Event) {
        let [high, low, number] = [16, 17, 18].map(|at| event.packet[at]);
        let mut peer = Address::default();
        peer.copy_from_slice(&event.packet[..16]);
        self.destination = Some(address(&peer));
        self.destination_port = Some(u16::from_be_bytes([high, low]));
        self.protocol = protocol_name(number);
    }

    fn packet(&mut self, event: &Event) {
        self.length = Some(event.length);
        self.ifindex = Some(event.ifindex);
        let held = usize::from(event.length).min(event.packet.len());
        match decode::packet(&event.packet[..held]) {
            Decoded::Ip(ip) => {
                (self.source, self.destination) = (Some(ip.source), Some(ip.destination));
                (self.source_port, self.destination_port) = ip.ports.unzip();
                (self.protocol, self.detail) = (protocol_name(ip.protocol), ip.detail);
            }
            Decoded::Other(0x0806) => self.protocol = "ARP".into(),
            Decoded::Other(kind) => self.protocol = format!("EtherType {kind:#06x}"),
            Decoded::Short => self.protocol = "cut short".into(),
        }
    }

    /// Who sends what to whom.
    fn what(&self) -> String {
        let side = |address: Option<IpAddr>, port: Option<u16>| match (address, port) {
            (Some(address), Some(port)) => end(address, port),
            (Some(address), None) => address.to_string(),
            _ => String::new(),
        };
        let (from, to) = (side(self.source, self.source_port), side(self.destination, self.destination_port));
        let arrow = if to.is_empty() { "" } else { ">" };
        joined(&[&from, arrow, &to, &self.protocol, &self.detail])
    }

    /// One line; `device` names a device.
    pub fn line(&self, device: impl Fn(u32) -> String) -> String {
        let outcome = self.drop.map(|reason| format!("DROP {reason}")).or(self.verdict.map(str::to_owned));
        let length = self.length.map_or(String::new(), |length| format!("{length} B"));
        let device = self.ifindex.map_or(String::new(), |index| format!("on {}", device(index)));
        let (time, outcome) = (clock_time(self.time), outcome.unwrap_or_default());
        joined(&[&time, self.hook, &outcome, &self.what(), &length, &device])
    }
}

/// See [`super::describe`].
pub(super) fn describe(packet: &[u8]) -> String {
    let mut event = Event { time: 0, hook: 0, outcome: 0, length: 0, ifindex: 0, packet: [0; EVENT_PACKET] };
    let held = packet.len().min(EVENT_PACKET);
    event.packet[..held].copy_from_slice(&packet[..held]);
    event.length = held as u16;
    Record::of(&event, Duration::ZERO).map(|record| record.what()).unwrap_or_default()
}

fn joined(parts: &[&str]) -> String {
    parts.iter().copied().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Events of these carry a peer and not a packet.
fn is_call(hook: Hook) -> bool {
    match hook {
        Hook::Connect | Hook::GetPeerName | Hook::SendMsg | Hook::RecvMsg => true,
        Hook::FromContainer
        | Hook::ToContainer
        | Hook::FromOverlay
        | Hook::ToOverlay
        | Hook::FromNetdev
        | Hook::ToNetdev => false,
    }
}

/// Time of day, UTC, to the microsecond.
fn clock_time(since_1970: f64) -> String {
    let micros = (since_1970 * 1e6) as u64;
    let seconds = micros / 1_000_000;
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{:06}", seconds % 60, micros % 1_000_000)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use diolkos_abi::address::v4_mapped;

    use super::*;

    fn syn() -> Event {
        let mut packet = [0; EVENT_PACKET];
        packet[12..14].copy_from_slice(&[8, 0]);
        packet[14..34].copy_from_slice(&[0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 244, 1, 5, 10, 96, 0, 9]);
        packet[34..38].copy_from_slice(&[0x9c, 0x40, 0, 80]);
        packet[46..48].copy_from_slice(&[0x50, 2]);
        let outcome = (FIRST_DROP + DropReason::NoEndpoints as u32) as u8;
        Event { time: 1_500_000, hook: Hook::FromContainer as u8, outcome, length: 54, ifindex: 7, packet }
    }

    #[test]
    fn a_drop_is_one_line() {
        let record = Record::of(&syn(), Duration::from_secs(3661)).unwrap();
        let line =
            "01:01:01.001500 from_container DROP no_endpoints 10.244.1.5:40000 > 10.96.0.9:80 TCP SYN 54 B on di7";
        assert_eq!(record.line(|index| format!("di{index}")), line);
        let json = serde_json::to_value(&record).unwrap();
        assert_eq!((json["drop"].as_str(), json["destination_port"].as_u64()), (Some("no_endpoints"), Some(80)));
        assert!(json.get("verdict").is_none());
    }

    #[test]
    fn a_system_call_shows_its_peer() {
        let mut packet = [0; EVENT_PACKET];
        packet[..16].copy_from_slice(&v4_mapped([10, 96, 0, 9]));
        packet[16..19].copy_from_slice(&[0, 80, 6]);
        let event = Event {
            hook: Hook::Connect as u8,
            outcome: Verdict::Translated as u8,
            length: 0,
            ifindex: 0,
            packet,
            ..syn()
        };
        let record = Record::of(&event, Duration::ZERO).unwrap();
        assert_eq!(record.line(|_| String::new()), "00:00:00.001500 connect translated > 10.96.0.9:80 TCP");
        let unknown = Event { hook: 99, ..event };
        assert_eq!(Record::of(&unknown, Duration::ZERO), None);
    }

    #[test]
    fn a_filter_looks_at_both_sides() {
        let record = Record::of(&syn(), Duration::ZERO).unwrap();
        let takes = |filter: Filter| filter.takes(&record);
        assert!(takes(Filter::default()));
        assert!(takes(Filter { address: Some([10, 96, 0, 9].into()), port: Some(40_000), ..Filter::default() }));
        assert!(!takes(Filter { address: Some([10, 96, 0, 8].into()), ..Filter::default() }));
        assert!(!takes(Filter { port: Some(81), ..Filter::default() }));
        assert!(!takes(Filter { hook: Some(Hook::FromOverlay), ..Filter::default() }));
    }
}
