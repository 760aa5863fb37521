//! Leader election on a Lease object: at most one holder acts at a time.
