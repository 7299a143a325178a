//! The tasks that run as long as the process, in one set, each with a name.

use std::collections::HashMap;
use std::fmt;

use tokio::task::{Id, JoinSet};

use super::Error;

/// A task that runs as long as the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskName {
    /// Notices when the thread of a worker ends.
    Worker,
    /// The gRPC port.
    GrpcServer,
    /// The admin port.
    AdminServer,
    /// Reloads files that change.
    Reload,
    /// Gets and renews the gateway's own token.
    TokenRefresh,
    /// The embedded upstream.
    Sandbox,
}

impl fmt::Display for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Worker => "worker",
            Self::GrpcServer => "gRPC server",
            Self::AdminServer => "admin server",
            Self::Reload => "reload",
            Self::TokenRefresh => "token renewal",
            Self::Sandbox => "sandbox",
        })
    }
}

/// The tasks by name. Dropping the set aborts them.
#[derive(Default)]
pub(super) struct Tasks {
    set: JoinSet<()>,
    names: HashMap<Id, TaskName>,
}

impl Tasks {
    /// Starts a task.
    pub(super) fn spawn(&mut self, name: TaskName, task: impl Future<Output = ()> + Send + 'static) {
        let id = self.set.spawn(task).id();
        self.names.insert(id, name);
    }

    /// Waits until a task ends, by a panic or otherwise, which none should.
    pub(super) async fn exited(&mut self) -> Error {
        match self.next().await {
            Some(name) => Error::TaskExited(name),
            // There are no tasks that could end.
            None => std::future::pending().await,
        }
    }

    /// Waits for the end of one task that has been signalled to stop. Others that end meanwhile are ignored: the
    /// process ends anyway.
    pub(super) async fn join(&mut self, name: TaskName) {
        while let Some(ended) = self.next().await {
            if ended == name {
                return;
            }
        }
    }

    /// The next task that ends. Dropping the future loses none.
    async fn next(&mut self) -> Option<TaskName> {
        let id = match self.set.join_next_with_id().await? {
            Ok((id, ())) => id,
            Err(error) => error.id(),
        };
        self.names.remove(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [TaskName; 6] = [
        TaskName::Worker,
        TaskName::GrpcServer,
        TaskName::AdminServer,
        TaskName::Reload,
        TaskName::TokenRefresh,
        TaskName::Sandbox,
    ];

    #[tokio::test]
    async fn task_that_panics_or_ends_is_named() {
        let shown = ["worker", "gRPC server", "admin server", "reload", "token renewal", "sandbox"];
        for (dead, shown) in ALL.into_iter().zip(shown) {
            for panics in [true, false] {
                let mut tasks = Tasks::default();
                for name in ALL {
                    tasks.spawn(name, async move {
                        match name == dead {
                            true if panics => panic!("for the test"),
                            true => {}
                            false => std::future::pending().await,
                        }
                    });
                }
                let error = tasks.exited().await;
                let expected = format!("the {shown} task died; this is a fault of the gateway");
                assert_eq!(error.to_string(), expected);
                assert!(matches!(error, Error::TaskExited(name) if name == dead));
            }
        }
    }
}
