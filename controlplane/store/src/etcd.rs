//! The store of production: etcd.

pub struct Etcd;
pub struct EtcdConfig;
