//! User space's licence to copy these types in and out of maps.
#![allow(unsafe_code)]

use crate::config::Config;
use crate::conntrack::{Flow, SocketFlow, Tuple};
use crate::pod::{Endpoint, Netns, Node, Route, RouteKey};
use crate::service::{Backend, FrontendKey, Service, SlotLine};

macro_rules! pod {
    ($($type:ty),*) => {$(
        // SAFETY: `repr(C)`, integers and byte arrays only, no implicit padding: every bit pattern is a value.
        unsafe impl aya::Pod for $type {}
    )*};
}

pod!(FrontendKey, Service, SlotLine, Backend, Tuple, Flow, SocketFlow, Endpoint, Node, RouteKey, Route, Netns, Config);
