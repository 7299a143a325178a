//! The tasks that run as long as the process, in one set, each with a name.

use std::collections::HashMap;

use tokio::task::{Id, JoinSet};

/// The tasks by name. Dropping the set aborts them.
#[derive(Default)]
pub(super) struct Tasks {
    set: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

impl Tasks {
    /// Starts a task.
    pub(super) fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let id = self.set.spawn(task).id();
        self.names.insert(id, name);
    }

    /// Waits until a task returns or panics. Dropping the future loses no task.
    pub(super) async fn next_exit(&mut self) -> Option<&'static str> {
        let id = match self.set.join_next_with_id().await? {
            Ok((id, ())) => id,
            Err(error) => error.id(),
        };
        self.names.remove(&id)
    }

    /// Waits for the end of one task that has been signalled to stop. Others that end meanwhile are ignored: the process
    /// ends anyway.
    pub(super) async fn join(&mut self, name: &'static str) {
        while let Some(exited) = self.next_exit().await {
            if exited == name {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn task_that_panics_or_returns_is_named() {
        for panics in [true, false] {
            let mut tasks = Tasks::default();
            tasks.spawn("running", std::future::pending());
            tasks.spawn("exited", async move { assert!(!panics, "for the test") });
            assert_eq!(tasks.next_exit().await, Some("exited"));
        }
    }

    #[tokio::test]
    async fn join_waits_for_the_named_task() {
        let mut tasks = Tasks::default();
        tasks.spawn("other", std::future::ready(()));
        tasks.spawn("joined", tokio::time::sleep(std::time::Duration::from_millis(20)));
        tasks.join("joined").await;
        assert_eq!(tasks.next_exit().await, None);
    }
}
