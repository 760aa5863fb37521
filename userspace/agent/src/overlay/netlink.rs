//! The few things asked of rtnetlink, with errors that say what was tried.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::{Stream, TryStreamExt};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};

use super::host_prefix;

/// The routing protocol of every route that is ours ("Diolkos"): `ip route show proto 209`. Unassigned in the kernel's
/// `rtnetlink.h` and in iproute2's `rt_protos`.
pub const ROUTE_PROTOCOL: u8 = 0xd1;

/// A netlink request that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation}: {source}")]
pub struct NetlinkError {
    pub operation: String,
    pub source: io::Error,
}

impl NetlinkError {
    pub(crate) fn is(&self, code: i32) -> bool {
        self.source.raw_os_error() == Some(code)
    }
}

/// A connection to the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Netlink {
    handle: Handle,
    driver: tokio::task::JoinHandle<()>,
}

impl Netlink {
    pub fn open() -> Result<Self, NetlinkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(failed("open a netlink socket"))?;
        Ok(Self { handle, driver: tokio::spawn(connection) })
    }

    pub async fn link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let found = self.handle.link().get().match_name(name.to_owned()).execute();
        let what = || format!("look up the device {name}");
        match std::pin::pin!(found).try_next().await {
            Ok(message) => Ok(message.map(Link::from)),
            Err(error) => match failed(what())(to_io(error)) {
                absent if absent.is(libc::ENODEV) => Ok(None),
                error => Err(error),
            },
        }
    }

    pub async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let found: Vec<LinkMessage> = collect(self.handle.link().get().execute(), "list devices").await?;
        Ok(found.into_iter().map(Link::from).collect())
    }

    pub(crate) async fn add_link(&self, message: LinkMessage, what: &str) -> Result<(), NetlinkError> {
        done(self.handle.link().add(message).execute().await, what)
    }

    pub(crate) async fn set_link(&self, message: LinkMessage, what: &str) -> Result<(), NetlinkError> {
        done(self.handle.link().set(message).execute().await, what)
    }

    pub(crate) async fn set_up(&self, link: &Link) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(link.index).up().build();
        self.set_link(message, &format!("bring up {}", link.name)).await
    }

    /// Deletes a device; one that is gone already is no error.
    pub async fn delete_link(&self, link: &Link) -> Result<(), NetlinkError> {
        match done(self.handle.link().del(link.index).execute().await, &format!("delete {}", link.name)) {
            Err(error) if error.is(libc::ENODEV) => Ok(()),
            other => other,
        }
    }

    /// The addresses of a device, with the prefix length and the message that deletes each.
    pub(crate) async fn addresses(&self, ifindex: u32) -> Result<Vec<(IpAddr, u8, AddressMessage)>, NetlinkError> {
        let request = self.handle.address().get().set_link_index_filter(ifindex);
        let found: Vec<AddressMessage> = collect(request.execute(), "list addresses").await?;
        Ok(found.into_iter().filter_map(|m| local_address(&m).map(|a| (a, m.header.prefix_len, m))).collect())
    }

    /// The devices that hold an address.
    pub(crate) async fn holders(&self, address: IpAddr) -> Result<Vec<u32>, NetlinkError> {
        let request = self.handle.address().get().set_address_filter(address);
        let found: Vec<AddressMessage> = collect(request.execute(), "list addresses").await?;
        Ok(found.iter().filter(|m| local_address(m) == Some(address)).map(|m| m.header.index).collect())
    }

    /// Adds an address as /32 or /128 (no prefix route comes with it); there already is no error. Nobody is asked
    /// whether they have an IPv6 address, so that it serves at once.
    pub(crate) async fn add_address(&self, link: &Link, address: IpAddr) -> Result<(), NetlinkError> {
        let prefix = host_prefix(address);
        let mut request = self.handle.address().add(link.index, address, prefix).replace();
        if address.is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        done(request.execute().await, &format!("add the address {address}/{prefix} to {}", link.name))
    }

    /// Adds an IPv4 address that no packet to elsewhere is sent under; there already is no error.
    pub(crate) async fn add_link_local_address(&self, link: &Link, address: Ipv4Addr) -> Result<(), NetlinkError> {
        let mut request = self.handle.address().add(link.index, address.into(), 32).replace();
        request.message_mut().header.scope = AddressScope::Link;
        done(request.execute().await, &format!("add the address {address}/32 to {}", link.name))
    }

    pub(crate) async fn delete_address(&self, message: AddressMessage, what: &str) -> Result<(), NetlinkError> {
        match done(self.handle.address().del(message).execute().await, what) {
            Err(error) if error.is(libc::EADDRNOTAVAIL) || error.is(libc::ENODEV) => Ok(()),
            other => other,
        }
    }

    /// The routes through a device, or through all, of all protocols and tables.
    pub(crate) async fn routes(&self, ifindex: Option<u32>) -> Result<Vec<RouteMessage>, NetlinkError> {
        let (v4, v6) = (RouteMessageBuilder::<Ipv4Addr>::new(), RouteMessageBuilder::<Ipv6Addr>::new());
        let mut found: Vec<RouteMessage> = Vec::new();
        for request in [v4.build(), v6.build()] {
            found.extend(collect::<RouteMessage>(self.handle.route().get(request).execute(), "list routes").await?);
        }
        found.retain(|route| ifindex.is_none_or(|ifindex| oif(route) == Some(ifindex)));
        Ok(found)
    }

    pub(crate) async fn add_route(&self, message: RouteMessage, what: &str) -> Result<(), NetlinkError> {
        done(self.handle.route().add(message).execute().await, what)
    }

    pub(crate) async fn replace_route(&self, message: RouteMessage, what: &str) -> Result<(), NetlinkError> {
        done(self.handle.route().add(message).replace().execute().await, what)
    }

    /// Deletes a route; one that is gone already is no error.
    pub(crate) async fn delete_route(&self, message: RouteMessage, what: &str) -> Result<(), NetlinkError> {
        match done(self.handle.route().del(message).execute().await, what) {
            Err(error) if error.is(libc::ESRCH) => Ok(()),
            other => other,
        }
    }

    /// Writes a neighbour that is never asked for and never expires.
    pub(crate) async fn set_neighbour(&self, link: &Link, to: IpAddr, mac: [u8; 6]) -> Result<(), NetlinkError> {
        let request = self.handle.neighbours().add(link.index, to).link_layer_address(&mac).replace();
        done(request.execute().await, &format!("set the neighbour {to} of {}", link.name))
    }

    /// The MAC of a permanent neighbour.
    pub(crate) async fn permanent_neighbour(
        &self,
        ifindex: u32,
        address: IpAddr,
    ) -> Result<Option<[u8; 6]>, NetlinkError> {
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let request = self.handle.neighbours().get().set_address_family(family);
        let found: Vec<NeighbourMessage> = collect(request.execute(), "list neighbours").await?;
        let wanted = NeighbourAttribute::Destination(NeighbourAddress::from(address));
        Ok(found
            .iter()
            .filter(|n| n.header.ifindex == ifindex && n.header.state == NeighbourState::Permanent)
            .find(|n| n.attributes.contains(&wanted))
            .and_then(|n| n.attributes.iter().find_map(link_layer)))
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// What matters of a network device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// Empty when there is none.
    pub alias: String,
    pub mac: [u8; 6],
    pub mtu: u32,
    /// The bridge or bond whose port it is; 0 for none.
    pub master: u32,
    pub up: bool,
    pub arp: bool,
    pub veth: bool,
    /// Of a virtual machine or a user space tunnel: tun, tap or macvtap.
    pub tap: bool,
    /// Of a VXLAN device only.
    pub vxlan: Option<Vxlan>,
}

/// What matters of a VXLAN device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vxlan {
    /// Tunnel ends come with each packet (`external`), not from the device.
    pub external: bool,
    /// UDP destination port.
    pub port: u16,
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Self {
            index: message.header.index,
            up: flags.contains(LinkFlags::Up),
            arp: !flags.contains(LinkFlags::Noarp),
            ..Self::default()
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::IfAlias(alias) => link.alias = alias,
                LinkAttribute::Address(mac) => link.mac = mac.try_into().unwrap_or_default(),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Controller(index) => link.master = index,
                LinkAttribute::LinkInfo(infos) => infos.iter().for_each(|info| add_info(&mut link, info)),
                _ => {}
            }
        }
        link
    }
}

/// `01:23:45:67:89:ab`.
pub(crate) fn format_mac(mac: &[u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn add_info(link: &mut Link, info: &LinkInfo) {
    match info {
        LinkInfo::Kind(InfoKind::Veth) => link.veth = true,
        LinkInfo::Kind(InfoKind::Tun | InfoKind::MacVtap) => link.tap = true,
        LinkInfo::Data(InfoData::Vxlan(data)) => {
            let mut vxlan = Vxlan::default();
            for item in data {
                match item {
                    InfoVxlan::CollectMetadata(external) => vxlan.external = *external,
                    InfoVxlan::Port(port) => vxlan.port = *port,
                    _ => {}
                }
            }
            link.vxlan = Some(vxlan);
        }
        _ => {}
    }
}

/// Of a device with a peer the local end's; IPv6 names it only there.
fn local_address(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let any = || {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    };
    local.or_else(any)
}

pub(crate) fn oif(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

/// The destination of a route; the default route has no attribute for it. None for families that are not IP.
pub(crate) fn destination(route: &RouteMessage) -> Option<(IpAddr, u8)> {
    let unspecified = match route.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let stated = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(to) => address(to),
        _ => None,
    });
    Some((stated.unwrap_or(unspecified), route.header.destination_prefix_length))
}

/// The next hop of a route, of its own family.
pub(crate) fn gateway(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(by) => address(by),
        _ => None,
    })
}

/// Whether a route leads to a router, or to several.
pub(crate) fn has_next_hop(route: &RouteMessage) -> bool {
    let leads = |attribute: &RouteAttribute| {
        matches!(attribute, RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::MultiPath(_))
    };
    route.attributes.iter().any(leads)
}

/// The MTU a route states.
pub(crate) fn mtu(route: &RouteMessage) -> Option<u32> {
    let metrics = route.attributes.iter().filter_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => Some(metrics),
        _ => None,
    });
    metrics.flatten().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}

pub(crate) fn address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn link_layer(attribute: &NeighbourAttribute) -> Option<[u8; 6]> {
    match attribute {
        NeighbourAttribute::LinkLayerAddress(mac) => mac.as_slice().try_into().ok(),
        _ => None,
    }
}

async fn collect<T>(
    stream: impl Stream<Item = Result<T, rtnetlink::Error>>,
    what: &str,
) -> Result<Vec<T>, NetlinkError> {
    stream.try_collect().await.map_err(|error| failed(what)(to_io(error)))
}

fn done(result: Result<(), rtnetlink::Error>, what: &str) -> Result<(), NetlinkError> {
    result.map_err(|error| failed(what)(to_io(error)))
}

fn failed(operation: impl Into<String>) -> impl FnOnce(io::Error) -> NetlinkError {
    let operation = operation.into();
    move |source| NetlinkError { operation, source }
}

fn to_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}
