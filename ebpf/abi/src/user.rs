//! User space's licence to copy these types in and out of maps.
#![allow(unsafe_code)]

use crate::config::Config;
use crate::conntrack::{ConnectedUdp, Flow, Fragment, FragmentKey, KnownLine, Peer, PeerKey, SocketFlow, Tuple};
use crate::event::{Answers, Control, Event};
use crate::pod::{Endpoint, Netns, Node, Route, RouteKey, Source};
use crate::service::{Affinity, AffinityKey, Backend, FrontendKey, MemberKey, Service, SlotLine};

macro_rules! pod {
    ($($type:ty),*) => {$(
        // SAFETY: `repr(C)`, integers and byte arrays only, no implicit padding: every bit pattern is a value.
        unsafe impl aya::Pod for $type {}
    )*};
}

pod!(
    FrontendKey,
    Service,
    SlotLine,
    Backend,
    MemberKey,
    AffinityKey,
    Affinity,
    Tuple,
    Flow,
    KnownLine,
    FragmentKey,
    Fragment,
    SocketFlow,
    PeerKey,
    Peer,
    ConnectedUdp,
    Endpoint,
    Source,
    Node,
    RouteKey,
    Route,
    Netns,
    Control,
    Event,
    Answers,
    Config
);
