//! The contract between the eBPF programs and user space.
//!
//! Everything both sides must agree on lives here and nowhere else: the keys, values and capacities of the maps, the
//! load-time constants, the counters and the reasons for a drop. All types are `#[repr(C)]`, of unsigned integers and
//! byte arrays, with explicit zeroed padding, so that their bytes are the same for both sides.
//!
//! Conventions: an IPv4 address is written as its v4-mapped IPv6 address (`::ffff:a.b.c.d`, 16 bytes, network order).
//! A field of type `[u8; N]` is in network byte order, an integer in the CPU's. Times are jiffies, shifted right by
//! [`conntrack::TIME_SHIFT`].

#![no_std]

pub mod address;
pub mod service;
pub mod conntrack;
pub mod pod;
pub mod counter;
pub mod event;
pub mod config;
#[cfg(feature = "user")]
mod user;

/// Names the layout in the pin path (`<bpffs>/diolkos/<node>/v<LAYOUT>/`). Raised by every change of a key, value,
/// map type or capacity, so that no program ever reads a map of another layout.
pub const LAYOUT: u32 = 3;
