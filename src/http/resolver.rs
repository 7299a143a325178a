//! Name resolution for the HTTP clients: one lookup at a time for each name, and connections spread over the addresses.
//!
//! It calls `getaddrinfo`, which reads `/etc/hosts` and the search domains of Kubernetes, and blocks a thread for as long as the
//! name server is silent. So all attempts that wait for the same name share one lookup. One that takes longer than the connect
//! timeout is joined by nobody, because a new one may find that the name server is back; there are never more than a few.
//!
//! This file must not know HTTP: `http.rs` calls it, and reports which address has answered.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::sync::lock;

/// How long an address that did not answer is tried last.
const AVOIDANCE: Duration = Duration::from_secs(30);

/// The most lookups under way at the same time, each of which blocks a thread.
const MAX_LOOKUPS: usize = 8;

/// The addresses of a name, or why there are none.
type Outcome = Result<Vec<SocketAddr>, String>;

/// Resolves names for all threads of one client.
#[derive(Debug)]
pub(super) struct Resolver {
    connect_timeout: Duration,
    /// The latest lookup of each name, while it is under way.
    lookups: Mutex<HashMap<String, Lookup>>,
    running: AtomicUsize,
    /// The addresses that did not answer, and until when they are tried last.
    avoided: Mutex<HashMap<IpAddr, Instant>>,
    turn: AtomicUsize,
}

#[derive(Clone, Debug)]
struct Lookup {
    start: Instant,
    outcome: watch::Receiver<Option<Outcome>>,
}

impl Resolver {
    pub(super) fn new(connect_timeout: Duration) -> Self {
        Self {
            connect_timeout,
            lookups: Mutex::default(),
            running: AtomicUsize::new(0),
            avoided: Mutex::default(),
            turn: AtomicUsize::new(0),
        }
    }

    /// The addresses of `host`, in the order in which to try them.
    pub(super) async fn resolve(self: &Arc<Self>, host: &str) -> io::Result<Vec<SocketAddr>> {
        // The client puts in its own port.
        let target = (host.to_owned(), 0);
        let lookup = async { Ok::<_, io::Error>(tokio::net::lookup_host(target).await?.collect()) };
        let addresses = self.share(host, lookup).await.map_err(io::Error::other)?;
        Ok(self.in_turn(addresses, Instant::now()))
    }

    /// The addresses in the order for the next connection.
    fn in_turn(&self, addresses: Vec<SocketAddr>, now: Instant) -> Vec<SocketAddr> {
        let mut avoided = lock(&self.avoided);
        avoided.retain(|_, until| *until > now);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        order(addresses, turn, |address| avoided.contains_key(&address.ip()))
    }

    /// Of the `offered` addresses, a connection to `connected` was opened: those before it did not answer. If none was opened, the
    /// first one did not.
    pub(super) fn report(&self, offered: &[SocketAddr], connected: Option<SocketAddr>, now: Instant) {
        let connected = connected.map(|address| address.ip());
        let mut avoided = lock(&self.avoided);
        for (place, ip) in offered.iter().map(SocketAddr::ip).enumerate() {
            if connected == Some(ip) {
                avoided.remove(&ip);
                return;
            }
            // The other family is tried at the same time, and may only have been slower.
            let was_tried = connected.map_or(place == 0, |connected| connected.is_ipv4() == ip.is_ipv4());
            if was_tried {
                avoided.insert(ip, now + AVOIDANCE);
            }
        }
    }

    /// The result of the lookup of `host` that is under way, or else of `lookup`.
    async fn share(
        self: &Arc<Self>,
        host: &str,
        lookup: impl Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
    ) -> Outcome {
        let mut outcome = self.latest(host).unwrap_or_else(|| self.start(host.to_owned(), lookup));
        match outcome.wait_for(Option::is_some).await.map(|outcome| outcome.clone()) {
            Ok(Some(result)) => result,
            Ok(None) | Err(_) => Err("the lookup was cancelled".into()),
        }
    }

    /// The lookup to join, if there is one.
    fn latest(&self, host: &str) -> Option<watch::Receiver<Option<Outcome>>> {
        let lookup = lock(&self.lookups).get(host)?.clone();
        let is_joined = lookup.start.elapsed() < self.connect_timeout
            || self.running.load(Ordering::Relaxed) >= MAX_LOOKUPS;
        is_joined.then_some(lookup.outcome)
    }

    /// Starts a lookup, which goes on when nobody waits any more: a blocked thread cannot be stopped.
    fn start(
        self: &Arc<Self>,
        host: String,
        lookup: impl Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
    ) -> watch::Receiver<Option<Outcome>> {
        let (sender, outcome) = watch::channel(None);
        let start = Instant::now();
        self.running.fetch_add(1, Ordering::Relaxed);
        lock(&self.lookups).insert(host.clone(), Lookup { start, outcome: outcome.clone() });
        let resolver = Arc::clone(self);
        tokio::spawn(async move {
            let result = lookup.await.map_err(|error| error.to_string());
            resolver.running.fetch_sub(1, Ordering::Relaxed);
            let mut lookups = lock(&resolver.lookups);
            if lookups.get(&host).is_some_and(|latest| latest.start == start) {
                lookups.remove(&host);
            }
            drop(lookups);
            sender.send_replace(Some(result));
        });
        outcome
    }
}

/// The order in which to try the addresses: the family that the system prefers first, each beginning with another address at each
/// `turn`; those to avoid last.
fn order(
    addresses: Vec<SocketAddr>,
    turn: usize,
    is_avoided: impl Fn(&SocketAddr) -> bool,
) -> Vec<SocketAddr> {
    let prefers_ipv4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (mut first, mut second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv4() == prefers_ipv4);
    for family in [&mut first, &mut second] {
        let length = family.len().max(1);
        family.rotate_left(turn % length);
    }
    first.append(&mut second);
    // The sort is stable.
    first.sort_by_key(is_avoided);
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| SocketAddr::new(text.parse().unwrap(), 0)).collect()
    }

    #[test]
    fn connections_are_spread_over_the_addresses_of_each_family() {
        let all = addresses(&["::1", "10.0.0.1", "::2", "10.0.0.2"]);
        for (turn, expected) in [
            (0, ["::1", "::2", "10.0.0.1", "10.0.0.2"]),
            (1, ["::2", "::1", "10.0.0.2", "10.0.0.1"]),
            (2, ["::1", "::2", "10.0.0.1", "10.0.0.2"]),
        ] {
            assert_eq!(order(all.clone(), turn, |_| false), addresses(&expected), "{turn}");
        }
        assert!(order(vec![], 7, |_| false).is_empty());
    }

    #[test]
    fn address_that_did_not_answer_is_tried_last_for_30_seconds() {
        let resolver = Resolver::new(AVOIDANCE);
        let all = addresses(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "::1"]);
        let first_of_each_turn = |now| {
            let mut first: Vec<_> = (0..3).map(|_| resolver.in_turn(all.clone(), now)[0]).collect();
            first.sort();
            first
        };
        let now = Instant::now();
        assert_eq!(first_of_each_turn(now), addresses(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]));
        resolver.report(&all, Some(all[2]), now);
        assert_eq!(first_of_each_turn(now), addresses(&["10.0.0.3", "10.0.0.3", "10.0.0.3"]));
        let later = now + AVOIDANCE;
        assert_eq!(first_of_each_turn(later), addresses(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]));
        // Without a connection, the first one did not answer.
        resolver.report(&all, None, later);
        assert!(!first_of_each_turn(later).contains(&all[0]));
        // One that answers is as good as the others.
        resolver.report(&all, Some(all[0]), later);
        assert_eq!(first_of_each_turn(later), addresses(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]));
    }

    #[tokio::test]
    async fn attempts_that_wait_for_the_same_name_share_one_lookup() {
        let resolver = Arc::new(Resolver::new(AVOIDANCE));
        let (answer, answered) = tokio::sync::oneshot::channel();
        let count = Arc::new(AtomicUsize::new(0));
        let answered = futures_util::FutureExt::shared(answered);
        let lookup = || {
            let (count, answered) = (Arc::clone(&count), answered.clone());
            async move {
                count.fetch_add(1, Ordering::Relaxed);
                answered.await.map_err(io::Error::other)
            }
        };
        // One that gives up does not end the lookup for the others.
        assert!(futures_util::FutureExt::now_or_never(resolver.share("vbs.example", lookup())).is_none());
        let waiting = (resolver.share("vbs.example", lookup()), resolver.share("vbs.example", lookup()));
        let (first, second, _) = tokio::join!(waiting.0, waiting.1, async {
            tokio::task::yield_now().await;
            answer.send(addresses(&["10.0.0.1"])).unwrap();
        });
        assert_eq!((first.unwrap(), second.unwrap()), (addresses(&["10.0.0.1"]), addresses(&["10.0.0.1"])));
        assert_eq!(count.load(Ordering::Relaxed), 1);
        // The next one looks it up again.
        let again = resolver.share("vbs.example", std::future::ready(Ok(vec![]))).await;
        assert_eq!(again.unwrap(), []);
    }

    #[tokio::test]
    async fn hung_lookup_is_joined_only_when_there_are_too_many() {
        // Every lookup has taken longer than this.
        let resolver = Arc::new(Resolver::new(Duration::ZERO));
        for _ in 0..MAX_LOOKUPS {
            let hung = resolver.share("vbs.example", std::future::pending());
            assert!(futures_util::FutureExt::now_or_never(hung).is_none());
        }
        let one_more = resolver.share("vbs.example", std::future::ready(Ok(vec![])));
        assert!(tokio::time::timeout(Duration::from_millis(100), one_more).await.is_err(), "it waits, too");
        assert_eq!(resolver.running.load(Ordering::Relaxed), MAX_LOOKUPS);
        let other = resolver.share("other.example", std::future::ready(Ok(addresses(&["10.0.0.1"])))).await;
        assert_eq!(other.unwrap(), addresses(&["10.0.0.1"]), "another name is not affected");
    }
}
