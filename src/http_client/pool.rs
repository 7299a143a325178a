//! The connections that wait for their next request. They are the process's: a call takes one that its own thread hears
//! of, if there is one, and else any.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use http::Uri;

use super::Config;
use super::link::Link;

/// How often the connections that wait are looked at: one that the other side has closed takes a descriptor until then.
const LOOK: Duration = Duration::from_secs(1);

/// Its task holds it weakly, and ends with it.
pub(super) struct Pool(Arc<Inner>);

struct Inner {
    idle_timeout: Duration,
    lifetime: Duration,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// The one that was used last comes last.
    #[expect(clippy::vec_box, reason = "every call takes one out and puts it back, which would move it")]
    links: Vec<Box<Link>>,
    /// A task looks at them until there are none.
    is_watched: bool,
}

impl Pool {
    pub(super) fn new(config: &Config) -> Self {
        Self(Arc::new(Inner {
            idle_timeout: config.idle_timeout,
            lifetime: config.connection_lifetime,
            waiting: Mutex::default(),
        }))
    }

    /// An open connection to where `uri` is.
    pub(super) fn take(&self, uri: &Uri) -> Option<Box<Link>> {
        let (home, now) = (thread::current().id(), Instant::now());
        loop {
            let mut link = self.0.lock().take(uri, |link| link.home == home)?;
            if self.0.is_young(&link, now) && link.is_open() {
                return Some(link);
            }
        }
    }

    /// Keeps a connection for the next request, if it can take one.
    pub(super) fn put(&self, mut link: Box<Link>) {
        let now = Instant::now();
        link.idle_since = Some(now);
        if !self.0.is_young(&link, now) || !link.is_open() {
            return;
        }
        let mut waiting = self.0.lock();
        waiting.links.push(link);
        if !std::mem::replace(&mut waiting.is_watched, true) {
            tokio::spawn(watch(Arc::downgrade(&self.0)));
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_young(&self, link: &Link, now: Instant) -> bool {
        let waits = link.idle_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        waits < self.idle_timeout && now.saturating_duration_since(link.opened) < self.lifetime
    }

    /// Closes what has become old or was closed by the other side. False when nothing is left.
    fn tidy(&self) -> bool {
        let (now, mut waiting) = (Instant::now(), self.lock());
        waiting.links.retain_mut(|link| self.is_young(link, now) && link.is_open());
        waiting.is_watched = !waiting.links.is_empty();
        waiting.is_watched
    }
}

impl Waiting {
    /// The last one that leads there and is preferred, or else the last one that leads there.
    fn take(&mut self, uri: &Uri, is_preferred: impl Fn(&Link) -> bool) -> Option<Box<Link>> {
        let last = |fits: &dyn Fn(&Link) -> bool| self.links.iter().rposition(|link| fits(link));
        let found = last(&|link| is_preferred(link) && link.leads_to(uri))
            .or_else(|| last(&|link| link.leads_to(uri)))?;
        Some(self.links.remove(found))
    }
}

async fn watch(pool: Weak<Inner>) {
    loop {
        let Some(pause) = pool.upgrade().map(|pool| LOOK.min(pool.idle_timeout)) else { return };
        tokio::time::sleep(pause).await;
        if !pool.upgrade().is_some_and(|pool| pool.tidy()) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::http_client::Roots;
    use crate::http_client::link::tests::{SOMEWHERE, link};

    use super::*;

    fn pool() -> Pool {
        Pool::new(&Config {
            roots: Roots::none(),
            proxy: None,
            connect_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(60),
            connection_lifetime: Duration::from_secs(60),
            max_response_bytes: 1024,
        })
    }

    #[tokio::test]
    async fn a_connection_of_the_own_thread_goes_first_and_one_to_elsewhere_never() {
        let (pool, uri) = (pool(), Uri::from_static(SOMEWHERE));
        let (own, _own) = link().await;
        let (mut other, _other) = link().await;
        other.home = thread::spawn(|| thread::current().id()).join().unwrap();
        pool.put(own);
        pool.put(other);
        assert!(pool.take(&Uri::from_static("http://elsewhere.example/")).is_none());
        assert!(pool.take(&Uri::from_static("https://vbs.example/")).is_none());
        assert_eq!(pool.take(&uri).unwrap().home, thread::current().id());
        assert_ne!(pool.take(&uri).unwrap().home, thread::current().id());
        assert!(pool.take(&uri).is_none());
    }

    #[tokio::test]
    async fn however_many_were_closed_none_of_them_is_taken_or_kept() {
        const MANY: usize = 1000;
        let uri = Uri::from_static(SOMEWHERE);
        for look in
            [|pool: &Pool, uri| assert!(pool.take(uri).is_none()), |pool: &Pool, _| assert!(!pool.0.tidy())]
        {
            let pool = pool();
            let mut others = Vec::new();
            for _ in 0..MANY {
                let (link, other) = link().await;
                pool.put(link);
                others.push(other);
            }
            assert_eq!(pool.0.lock().links.len(), MANY);
            drop(others);
            look(&pool, &uri);
            assert!(pool.0.lock().links.is_empty());
        }
    }
}
