//! Watches files, and puts what changed in them in use: certificates, CA certificates, rules, and the gateway's own credential.
//!
//! Files are polled: `inotify` loses the swap of symbolic links by which Kubernetes updates mounted files. The files are
//! small, and in the page cache. Files that belong together, such as a certificate and its key, are read together, and only when
//! they have been the same for two looks: they may still be written.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use crate::files::{Reload, SETTLE_TIME, Snapshot};
use crate::metrics::Metrics;
use crate::server::Tls;

/// Looks at the files once an interval, and at once when `requests` is notified.
pub(super) async fn reload_task(
    interval: Duration,
    requests: Arc<Notify>,
    mut watches: Vec<Watch>,
    tls: Option<Arc<Tls>>,
    metrics: Metrics,
) {
    let mut pause = interval;
    loop {
        if let Some(tls) = &tls {
            metrics.certificate_expiry.set(tls.expiry_timestamp());
        }
        let is_requested = tokio::select! {
            () = sleep(pause) => false,
            // Not while one is being answered: many in a row would put off the second look for ever.
            () = requests.notified(), if pause == interval => true,
        };
        let metrics = metrics.clone();
        // A slow file system must not block a thread that serves calls.
        let looks = tokio::task::spawn_blocking(move || {
            if is_requested {
                watches.iter_mut().for_each(Watch::restart);
                return (watches, false);
            }
            let mut is_settled = true;
            for watch in &mut watches {
                is_settled &= watch.look(&metrics);
            }
            (watches, is_settled)
        });
        // It fails only if a look has panicked. The end of this task ends the process.
        let Ok((looked, is_settled)) = looks.await else { return };
        watches = looked;
        // After a request the looks are close together until every file has stopped changing.
        if is_requested {
            pause = SETTLE_TIME;
        } else if is_settled {
            pause = interval;
        }
    }
}

/// Files that belong together, and what was read from them.
pub(super) struct Watch {
    target: Arc<dyn Reload>,
    in_use: Snapshot,
    /// What the last look has seen.
    last: Snapshot,
    /// The content that was rejected last. It is tried again at each look, since the reason may pass (a certificate that is not
    /// valid yet), but reported once.
    rejected: Option<Snapshot>,
}

impl Watch {
    pub(super) fn new(target: Arc<dyn Reload>) -> Self {
        let in_use = target.snapshot();
        Self { target, last: in_use.clone(), in_use, rejected: None }
    }

    /// Begins anew: the content must be the same in this look and in the next one. Reports again what was rejected.
    fn restart(&mut self) {
        self.last = Snapshot::take(self.target.files());
        self.rejected = None;
    }

    /// Looks at the files, and uses their content if it is new and no longer changes. Returns whether it no longer changes.
    fn look(&mut self, metrics: &Metrics) -> bool {
        let seen = Snapshot::take(self.target.files());
        let is_settled = seen == self.last;
        self.last = seen.clone();
        if !is_settled {
            return false;
        }
        if seen == self.in_use {
            self.rejected = None;
            return true;
        }
        let content = self.target.read();
        if Snapshot::take(self.target.files()) != seen {
            return false;
        }
        let subject = self.target.subject();
        match content {
            Ok(put_in_use) => {
                put_in_use();
                self.in_use = seen;
                self.rejected = None;
                tracing::info!("the new {subject} is in use");
            }
            Err(error) if self.rejected.as_ref() != Some(&seen) => {
                metrics.reload_failures.inc();
                tracing::error!(error, "the new {subject} was rejected; the old one stays in use");
                self.rejected = Some(seen);
            }
            Err(_reported) => {}
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Mutex;

    use super::*;

    /// Its file holds text. `on_read` runs after the file was read.
    struct Text<F> {
        path: PathBuf,
        in_use: Mutex<String>,
        on_read: F,
    }

    impl<F: Fn(&str) -> Result<(), String> + Send + Sync> Reload for Text<F> {
        fn subject(&self) -> &'static str {
            "text"
        }

        fn files(&self) -> Vec<PathBuf> {
            vec![self.path.clone()]
        }

        fn snapshot(&self) -> Snapshot {
            Snapshot::take(self.files())
        }

        fn read(&self) -> Result<Box<dyn FnOnce() + '_>, String> {
            let text = std::fs::read_to_string(&self.path).unwrap();
            (self.on_read)(&text)?;
            Ok(Box::new(move || *self.in_use.lock().unwrap() = text))
        }
    }

    /// A watch of `path`, which holds `old`.
    fn watch<F: Fn(&str) -> Result<(), String> + Send + Sync + 'static>(
        path: PathBuf,
        on_read: F,
    ) -> (Watch, Arc<Text<F>>, Metrics) {
        std::fs::write(&path, "old").unwrap();
        let text = Arc::new(Text { path, in_use: Mutex::new("old".into()), on_read });
        (Watch::new(Arc::clone(&text) as _), text, Metrics::new(|| 0).unwrap())
    }

    #[test]
    fn content_that_changes_while_it_is_read_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        let written = path.clone();
        let (mut watch, text, metrics) = watch(path.clone(), move |text| {
            if text == "half" {
                std::fs::write(&written, "whole").unwrap();
            }
            Ok(())
        });
        std::fs::write(&path, "half").unwrap();
        for (is_settled, in_use) in
            [(false, "old"), (false, "old"), (false, "old"), (true, "whole"), (true, "whole")]
        {
            assert_eq!(watch.look(&metrics), is_settled);
            assert_eq!(*text.in_use.lock().unwrap(), in_use);
        }
    }

    #[test]
    fn rejected_content_is_counted_once_and_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        let attempts = Mutex::new(0);
        let (mut watch, text, metrics) = watch(path.clone(), move |_| {
            *attempts.lock().unwrap() += 1;
            if *attempts.lock().unwrap() < 4 { Err("not valid yet".into()) } else { Ok(()) }
        });
        std::fs::write(&path, "new").unwrap();
        for (in_use, failures) in [("old", 0), ("old", 1), ("old", 1)] {
            watch.look(&metrics);
            assert_eq!(
                (text.in_use.lock().unwrap().as_str(), metrics.reload_failures.get()),
                (in_use, failures)
            );
        }
        watch.restart();
        for (in_use, failures) in [("old", 2), ("new", 2)] {
            watch.look(&metrics);
            assert_eq!(
                (text.in_use.lock().unwrap().as_str(), metrics.reload_failures.get()),
                (in_use, failures)
            );
        }
    }

    #[test]
    fn content_that_was_rejected_before_other_content_is_counted_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        let (mut watch, _, metrics) =
            watch(path.clone(), |text| if text == "bad" { Err("bad".into()) } else { Ok(()) });
        for (written, failures) in [("bad", 1), ("good", 1), ("bad", 2)] {
            std::fs::write(&path, written).unwrap();
            assert_eq!([watch.look(&metrics), watch.look(&metrics)], [false, true]);
            assert_eq!(metrics.reload_failures.get(), failures, "{written}");
        }
    }

    #[test]
    fn content_is_used_when_two_looks_in_a_row_are_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        let (mut watch, text, metrics) = watch(path.clone(), |_| Ok(()));
        for (written, is_settled, in_use) in [
            ("old", true, "old"),
            ("n", false, "old"),
            ("ne", false, "old"),
            ("new", false, "old"),
            ("new", true, "new"),
            ("new", true, "new"),
            ("old", false, "new"),
            ("new", false, "new"),
            ("old", false, "new"),
            ("old", true, "old"),
        ] {
            std::fs::write(&path, written).unwrap();
            assert_eq!(watch.look(&metrics), is_settled, "{written}");
            assert_eq!(*text.in_use.lock().unwrap(), in_use, "{written}");
        }
    }
}
