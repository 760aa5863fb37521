//! A model of the store in memory.

pub struct Model;
