//! All packet and socket logic of the dataplane: safe Rust over two small traits.
//!
//! The same code runs in the kernel behind the shims of `diolkos-programs`, and in plain tests behind a model of the
//! maps and of a packet. A hook returns what became of the packet, or why it was refused; the caller turns that into
//! the kernel's code and into one counter.
//!
//! Both families are one source: functions are generic over `V6`, and handle addresses as four words, an IPv4 one in its
//! v4-mapped form. TCP and UDP go through services; other protocols travel between pods untranslated.

#![no_std]
#![forbid(unsafe_code)]

mod answer;
mod hooks;
mod netdev;
mod socket;

mod icmp;
mod spoof;
mod fragment;
mod connection;
mod host;
mod masquerade;

mod affinity;
mod balance;

mod deliver;
mod mtu;

mod lookup;

mod checksum;
pub mod rewrite;

mod headers;

mod extension;

mod family;

mod packet;
mod tables;

pub use answer::answer;
pub use balance::CANDIDATES;
pub use diolkos_abi::address::Address;
pub use hooks::{from_container, from_overlay, to_container, to_overlay};
pub use netdev::{from_netdev, to_netdev};
pub use packet::{Change, Checksum, Packet, Tunnel};
pub use socket::{Peer, connect, getpeername, recvmsg, sendmsg};
pub use tables::{Insert, InsertError, Scratch, Tables, expired};
