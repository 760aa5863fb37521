//! The cluster harness: N nodes on one machine, each a set of namespaces with its own containerd,
//! kubelet and agent, and a control plane beside them.
//!
//! Everything lives below one process: when that ends, by whatever signal, the kernel ends all servers,
//! containers, mounts and network devices, and a reaper removes the cgroups and files.

pub mod cgroup;
pub mod cluster;
pub mod eventually;
pub mod figures;
pub mod guard;
pub mod image;
pub mod iperf;
pub mod process;
pub mod space;
pub mod tools;

pub use cluster::{Cluster, ClusterConfig, Families, Node, Pod, network};
pub use eventually::eventually;
