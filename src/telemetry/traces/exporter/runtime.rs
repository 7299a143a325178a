//! The runtime on which spans are exported, and its end.
//!
//! The SDK calls its exporter with `block_on` on a thread of its own, which has no reactor for the clients of gRPC and HTTP:
//! each export is driven here on a small Tokio runtime. Shutting a runtime down under an export would panic on the SDK's
//! thread, so [`ExportRuntime::shutdown`] first cancels the export under way and waits for its end; exports that come later
//! are refused without touching the runtime.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use tokio::runtime::{Builder, EnterGuard, Handle, Runtime};
use tokio_util::sync::CancellationToken;

/// How long a cancelled export may take to end. It has nothing to wait for: its thread only has to run.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the runtime may take to drop its tasks. A name that is still being resolved would hold it longer.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(100);

/// A runtime of one thread for exports.
#[derive(Debug)]
pub(super) struct ExportRuntime {
    runtime: Runtime,
    gate: Arc<Gate>,
}

impl ExportRuntime {
    pub(super) fn start() -> io::Result<Self> {
        let runtime =
            Builder::new_multi_thread().worker_threads(1).thread_name("otlp").enable_all().build()?;
        Ok(Self { runtime, gate: Arc::default() })
    }

    /// What clients of gRPC and HTTP need around them when they are made.
    pub(super) fn enter(&self) -> EnterGuard<'_> {
        self.runtime.enter()
    }

    /// Makes `exporter` export on this runtime.
    pub(super) fn attach<E: SpanExporter>(&self, exporter: E) -> OnRuntime<E> {
        OnRuntime { handle: self.runtime.handle().clone(), gate: Arc::clone(&self.gate), exporter }
    }

    /// Cancels the export under way, waits for its end, and shuts the runtime down.
    pub(super) fn shutdown(self) {
        if self.gate.close(CANCEL_TIMEOUT) {
            self.runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
        } else {
            // The machine has not run the exporting thread for a second. It would panic without the runtime, which
            // therefore stays until the process ends.
            std::mem::forget(self.runtime);
        }
    }
}

/// Lets exports begin until it is closed.
#[derive(Debug, Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
    cancelled: CancellationToken,
}

#[derive(Debug, Default)]
struct GateState {
    is_closed: bool,
    in_flight: usize,
}

impl Gate {
    /// Begins an export, unless the gate is closed.
    fn enter(&self) -> Option<InFlight<'_>> {
        let mut state = self.lock();
        if state.is_closed {
            return None;
        }
        state.in_flight += 1;
        Some(InFlight(self))
    }

    /// Lets no more exports begin, cancels those under way, and waits until they have ended. False after `limit`.
    fn close(&self, limit: Duration) -> bool {
        let mut state = self.lock();
        state.is_closed = true;
        self.cancelled.cancel();
        let waited = self.changed.wait_timeout_while(state, limit, |state| state.in_flight > 0);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.in_flight == 0
    }

    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An export under way. It ends when this is dropped, even by a panic.
struct InFlight<'a>(&'a Gate);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.lock().in_flight -= 1;
        self.0.changed.notify_all();
    }
}

/// An exporter whose exports run on an [`ExportRuntime`].
#[derive(Debug)]
pub(super) struct OnRuntime<E> {
    handle: Handle,
    gate: Arc<Gate>,
    exporter: E,
}

impl<E: SpanExporter> SpanExporter for OnRuntime<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let Some(_in_flight) = self.gate.enter() else { return Err(OTelSdkError::AlreadyShutdown) };
        self.handle.block_on(async {
            tokio::select! {
                result = self.exporter.export(batch) => result,
                () = self.gate.cancelled.cancelled() => {
                    Err(OTelSdkError::InternalFailure("cancelled by the shutdown".into()))
                }
            }
        })
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    /// Tells when an export begins, which then hangs with a timer of the runtime.
    #[derive(Debug)]
    struct Hanging(mpsc::Sender<()>);

    impl SpanExporter for Hanging {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            self.0.send(()).unwrap();
            tokio::time::sleep(Duration::from_secs(3600)).await;
            Ok(())
        }
    }

    #[test]
    fn shutdown_ends_hanging_export_without_panic_and_refuses_later_ones() {
        let (begun, has_begun) = mpsc::channel();
        let runtime = ExportRuntime::start().unwrap();
        let exporter = Arc::new(runtime.attach(Hanging(begun)));
        let exporting = Arc::clone(&exporter);
        // The SDK polls the export once, on a thread without a runtime.
        let sdk = thread::spawn(move || futures_util::FutureExt::now_or_never(exporting.export(Vec::new())));
        has_begun.recv().unwrap();
        runtime.shutdown();
        let ended = sdk.join().expect("no panic").expect("it blocks until it has ended");
        assert!(matches!(ended, Err(OTelSdkError::InternalFailure(_))), "{ended:?}");
        let later = futures_util::FutureExt::now_or_never(exporter.export(Vec::new()));
        assert!(matches!(later, Some(Err(OTelSdkError::AlreadyShutdown))), "{later:?}");
    }
}
