//! Locks that a panic elsewhere does not break: what they protect is whole after each change.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, also if a thread has panicked while it held the lock.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
