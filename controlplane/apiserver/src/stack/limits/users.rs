//! What one user may have at once, and how fast. Members of `system:masters` have no such limit: somebody has to be able
//! to mend things.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use diolkos_api::status::Failure;

use crate::metrics::Metrics;
use crate::pki::ADMIN_GROUP;
use crate::stack::User;

/// Users that are remembered; beyond that, those without a request are forgotten.
const REMEMBERED: usize = 10_000;

/// The limits of one user.
#[derive(Clone, Debug)]
pub struct UserLimits {
    /// Requests between their arrival and the head of their answer.
    pub in_flight: usize,
    /// Requests a second, in the long run.
    pub rate: f64,
    /// Requests at once after a pause.
    pub burst: f64,
    /// Lists that are being answered.
    pub lists: usize,
    /// Open watches.
    pub watches: usize,
}

impl Default for UserLimits {
    /// Half of all places, the fastest that a component was seen to be, and many more watches than one has kinds.
    fn default() -> Self {
        UserLimits { in_flight: 200, rate: 10_000.0, burst: 20_000.0, lists: 100, watches: 2000 }
    }
}

/// What a user has of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Requests,
    Lists,
    Watches,
}

/// All users with their places. Clones share them.
#[derive(Clone)]
pub(crate) struct Users {
    limits: Arc<UserLimits>,
    known: Arc<Mutex<HashMap<String, Arc<Usage>>>>,
    metrics: Metrics,
}

struct Usage {
    counts: [AtomicUsize; 3],
    /// Requests that may come now, and when that was reckoned.
    bucket: Mutex<(f64, Instant)>,
}

/// A place that is given back when dropped.
pub(crate) struct Place(Option<(Arc<Usage>, What)>);

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((usage, what)) = &self.0 {
            usage.counts[*what as usize].fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Users {
    pub(crate) fn new(limits: UserLimits, metrics: Metrics) -> Users {
        Users { limits: Arc::new(limits), known: Arc::default(), metrics }
    }

    /// A place for a request, at its turn.
    pub(crate) fn request(&self, user: &User) -> Result<Place, Failure> {
        if user.is_in(ADMIN_GROUP) {
            return Ok(Place(None));
        }
        let usage = self.usage(&user.name);
        if !usage.is_in_time(&self.limits) {
            self.metrics.refused_user("rate");
            let why = format!("user {:?} sends more than {} requests a second", user.name, self.limits.rate);
            return Err(Failure::too_many_requests(format!("{why}, please try again later"), 1));
        }
        self.take(user, usage, What::Requests)
    }

    /// A place for something that a request opens.
    pub(crate) fn open(&self, user: &User, what: What) -> Result<Place, Failure> {
        if user.is_in(ADMIN_GROUP) {
            return Ok(Place(None));
        }
        let usage = self.usage(&user.name);
        self.take(user, usage, what)
    }

    fn take(&self, user: &User, usage: Arc<Usage>, what: What) -> Result<Place, Failure> {
        let (most, name) = match what {
            What::Requests => (self.limits.in_flight, "requests in flight"),
            What::Lists => (self.limits.lists, "lists in flight"),
            What::Watches => (self.limits.watches, "open watches"),
        };
        let before = usage.counts[what as usize].fetch_add(1, Ordering::Relaxed);
        let place = Place(Some((usage, what)));
        if before < most {
            return Ok(place);
        }
        self.metrics.refused_user(match what {
            What::Requests => "in-flight",
            What::Lists => "lists",
            What::Watches => "watches",
        });
        let why = format!("user {:?} has {most} {name}, which is the most", user.name);
        Err(Failure::too_many_requests(format!("{why}, please try again later"), 1))
    }

    fn usage(&self, name: &str) -> Arc<Usage> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(usage) = known.get(name) {
            return usage.clone();
        }
        if known.len() >= REMEMBERED {
            known.retain(|_, usage| Arc::strong_count(usage) > 1);
        }
        let usage =
            Arc::new(Usage { counts: Default::default(), bucket: Mutex::new((self.limits.burst, Instant::now())) });
        known.insert(name.to_owned(), usage.clone());
        usage
    }
}

impl Usage {
    fn is_in_time(&self, limits: &UserLimits) -> bool {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let filled = bucket.0 + now.duration_since(bucket.1).as_secs_f64() * limits.rate;
        let left = filled.min(limits.burst) - 1.0;
        *bucket = (left.max(0.0), now);
        left >= 0.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn users(limits: UserLimits) -> Users {
        Users::new(limits, Metrics::default())
    }

    #[test]
    fn one_user_cannot_take_the_places_of_another() {
        let users = users(UserLimits { in_flight: 2, watches: 1, ..UserLimits::default() });
        let (alice, bob) = (User::new("alice", []), User::new("bob", []));
        let held = [users.request(&alice).unwrap(), users.request(&alice).unwrap()];
        let refused = users.request(&alice).err().unwrap();
        assert_eq!((refused.code(), refused.reason()), (429, "TooManyRequests"));
        assert!(users.request(&bob).is_ok());
        assert!(users.open(&alice, What::Watches).is_ok_and(|_| users.open(&alice, What::Watches).is_err()));
        drop(held);
        assert!(users.request(&alice).is_ok());
        let admin = User::new("admin", [ADMIN_GROUP]);
        let many: Vec<Place> = (0..10).map(|_| users.request(&admin).unwrap()).collect();
        assert_eq!(many.len(), 10);
    }

    #[test]
    fn a_user_that_asks_too_fast_has_to_wait() {
        let users = users(UserLimits { rate: 0.001, burst: 3.0, ..UserLimits::default() });
        let alice = User::new("alice", []);
        let answers: Vec<bool> = (0..5).map(|_| users.request(&alice).is_ok()).collect();
        assert_eq!(answers, [true, true, true, false, false]);
        assert!(users.request(&User::new("bob", [])).is_ok());
    }
}
