//! Admission: which calls get one of the slots of `--max-in-flight`, and which streams of other endpoints get one of their own.
//! One that gets none is refused immediately, so that there is never a queue.
//!
//! One caller must not shut out the others: see [`Policy`]. Each connection holds its [`Caller`], so that a call looks up nothing.
//! Tests: `tests/gateway/overload.rs`, `tests/gateway/endpoint_limits.rs`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use crate::server::Peer;
use crate::sync::lock;

/// Who gets a slot.
#[derive(Clone, Copy, Debug)]
pub(super) enum Policy {
    /// The last eighth of the slots (rounded down) is only for callers that hold fewer than their even share.
    FairShares { limit: usize },
    /// Each caller has a limit of its own.
    PerCaller { limit: usize, per_caller: usize },
}

impl Policy {
    /// Whether a caller that holds `own` slots gets another one. `busy_callers` is the number of callers that hold any.
    fn admits(self, in_flight: usize, own: usize, busy_callers: usize) -> bool {
        match self {
            Self::FairShares { limit } => {
                let is_below_even_share = own * busy_callers.max(2) < limit;
                in_flight < limit - limit / 8 || (in_flight < limit && is_below_even_share)
            }
            Self::PerCaller { limit, per_caller } => in_flight < limit && own < per_caller,
        }
    }
}

/// The slots of the process.
#[derive(Debug)]
pub(super) struct Admission {
    policy: Policy,
    usage: Mutex<Usage>,
    /// The callers that have a connection.
    callers: Mutex<HashMap<CallerId, Weak<Caller>>>,
}

#[derive(Debug, Default)]
struct Usage {
    in_flight: usize,
    busy_callers: usize,
}

/// Whose connection it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum CallerId {
    Name(String),
    Address(IpAddr),
}

impl CallerId {
    /// The name in the certificate, or else the IP address: callers behind one proxy count as one.
    pub(super) fn of(peer: &Peer) -> Self {
        match peer.names.first() {
            Some(name) => Self::Name(name.clone()),
            None => Self::address_of(peer),
        }
    }

    /// The IP address.
    pub(super) fn address_of(peer: &Peer) -> Self {
        Self::Address(peer.address.ip().to_canonical())
    }
}

/// One caller, on all of its connections.
#[derive(Debug)]
pub(super) struct Caller {
    id: CallerId,
    admission: Arc<Admission>,
    /// The slots that it holds. Changed only while [`Admission::usage`] is locked.
    own: AtomicUsize,
}

/// The slot of a call, until it is dropped.
#[derive(Debug)]
pub(crate) struct Slot(Arc<Caller>);

impl Admission {
    pub(super) fn new(policy: Policy) -> Arc<Self> {
        Arc::new(Self { policy, usage: Mutex::default(), callers: Mutex::default() })
    }

    /// The caller behind a connection.
    pub(super) fn caller(self: &Arc<Self>, id: CallerId) -> Arc<Caller> {
        let mut callers = lock(&self.callers);
        if let Some(caller) = callers.get(&id).and_then(Weak::upgrade) {
            return caller;
        }
        let caller =
            Arc::new(Caller { id: id.clone(), admission: Arc::clone(self), own: AtomicUsize::new(0) });
        callers.insert(id, Arc::downgrade(&caller));
        caller
    }
}

impl Caller {
    /// A slot, immediately or not at all.
    pub(super) fn try_acquire(self: &Arc<Self>) -> Option<Slot> {
        let mut usage = lock(&self.admission.usage);
        let own = self.own.load(Ordering::Relaxed);
        if !self.admission.policy.admits(usage.in_flight, own, usage.busy_callers) {
            return None;
        }
        usage.in_flight += 1;
        usage.busy_callers += usize::from(own == 0);
        self.own.store(own + 1, Ordering::Relaxed);
        Some(Slot(Arc::clone(self)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut usage = lock(&self.0.admission.usage);
        let own = self.0.own.load(Ordering::Relaxed) - 1;
        usage.in_flight -= 1;
        usage.busy_callers -= usize::from(own == 0);
        self.0.own.store(own, Ordering::Relaxed);
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let mut callers = lock(&self.admission.callers);
        // Another connection of the same caller may have put a new entry there.
        if callers.get(&self.id).is_some_and(|caller| caller.strong_count() == 0) {
            callers.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(address: &str, names: &[&str]) -> CallerId {
        let names = names.iter().map(ToString::to_string).collect();
        CallerId::of(&Peer {
            address: format!("{address}:1").parse().unwrap(),
            addr_display: address.into(),
            names,
        })
    }

    /// As many slots as the caller gets, up to 1,000.
    fn fill(caller: &Arc<Caller>) -> Vec<Slot> {
        std::iter::from_fn(|| caller.try_acquire()).take(1000).collect()
    }

    #[test]
    fn single_caller_fills_seven_eighths_and_a_second_one_gets_in() {
        for (limit, first, second) in [(1, 1, 0), (2, 2, 0), (7, 7, 0), (8, 7, 1), (9, 8, 1), (100, 88, 12)] {
            let admission = Admission::new(Policy::FairShares { limit });
            let slots = fill(&admission.caller(id("10.0.0.1", &[])));
            let others = fill(&admission.caller(id("10.0.0.2", &[])));
            assert_eq!((slots.len(), others.len()), (first, second), "limit {limit}");
        }
    }

    #[test]
    fn second_caller_reaches_its_even_share_as_calls_of_the_first_end() {
        let admission = Admission::new(Policy::FairShares { limit: 16 });
        let (larger, smaller) =
            (admission.caller(id("10.0.0.1", &[])), admission.caller(id("10.0.0.2", &[])));
        let mut slots = fill(&larger);
        assert_eq!(slots.len(), 14);
        let mut others = fill(&smaller);
        assert_eq!(others.len(), 2);
        // Each slot that the larger frees, while both ask for it, goes to the caller below its share.
        while slots.len() > 8 {
            slots.pop();
            slots.extend(fill(&larger));
            others.extend(fill(&smaller));
        }
        assert_eq!((slots.len(), others.len()), (8, 8));
        // With a third caller, the share of each is a third.
        let third = admission.caller(id("10.0.0.3", &[]));
        assert!(third.try_acquire().is_none(), "no slot is free");
        slots.pop();
        let _third = third.try_acquire().unwrap();
        others.pop();
        assert!(larger.try_acquire().is_none() && smaller.try_acquire().is_none());
        let _another = third.try_acquire().unwrap();
    }

    #[test]
    fn caller_is_its_name_or_else_its_address_on_every_connection() {
        let admission = Admission::new(Policy::FairShares { limit: 8 });
        let named = admission.caller(id("10.0.0.1", &["spiffe://example.org/a"]));
        let same = admission.caller(id("10.0.0.2", &["spiffe://example.org/a"]));
        assert!(Arc::ptr_eq(&named, &same));
        assert!(!Arc::ptr_eq(&named, &admission.caller(id("10.0.0.1", &["b.example"]))));
        let address = admission.caller(id("10.0.0.1", &[]));
        assert!(!Arc::ptr_eq(&named, &address));
        assert!(Arc::ptr_eq(&address, &admission.caller(id("[::ffff:10.0.0.1]", &[]))));
        drop((named, same, address));
        assert!(lock(&admission.callers).is_empty(), "no entry of a caller without a connection");
    }

    #[test]
    fn limit_per_caller_holds_for_each_and_the_limit_for_all() {
        let admission = Admission::new(Policy::PerCaller { limit: 5, per_caller: 2 });
        let callers = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|address| admission.caller(id(address, &[])));
        let slots: Vec<_> = callers.iter().map(fill).collect();
        assert_eq!(slots.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
    }
}
