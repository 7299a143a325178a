//! SIGTERM and SIGINT.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};

use crate::support::process::*;
use crate::support::*;

#[tokio::test]
async fn sigterm_and_sigint_exit_0() {
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let mut gateway = GatewayProcess::start(&["--sandbox"]).await;
        gateway.signal(signal);
        assert_eq!(gateway.exit_code().await, Some(0));
    }
}

#[tokio::test]
async fn second_signal_ends_active_call_and_logs_it() {
    let upstream = Upstream::stalled().await;
    let flags = ["--drain-timeout=10m", "--attempt-timeout=10m", "--max-deadline=10m"];
    let mut gateway = GatewayProcess::with_upstream(&upstream, &flags).await;
    let mut get = gateway.get_command(PROJECT, SHARE, &["--deadline=10m"]);
    let _call = get.stderr(Stdio::null()).spawn().unwrap();
    upstream.wait_for_requests(1).await;
    gateway.signal(rustix::process::Signal::TERM);
    gateway.line_with_message("draining: not serving any more").await;
    gateway.signal(rustix::process::Signal::TERM);
    assert_eq!(gateway.exit_code().await, Some(1));
    let line = gateway.line().await;
    assert_eq!(
        (&line["message"], &line["rpc.code"]),
        (&"call".into(), &"CANCELLED".into()),
        "the call that was ended is logged"
    );
}

#[tokio::test]
async fn second_signal_exits_with_unread_output() {
    // Standard output and standard error share one pipe, as with `2>&1 |`.
    let (reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
    let end = || Stdio::from(std::os::fd::OwnedFd::from(writer.try_clone().unwrap()));
    let mut command = serve_command(&["--upstream-url=https://vbs.example", "--drain-delay=10m"]);
    let mut child = command.stdout(end()).stderr(end()).spawn().unwrap();
    reader.set_nonblocking(true).unwrap();
    let mut log = BufReader::new(tokio::net::UnixStream::from_std(reader).unwrap()).lines();
    with_timeout("the first line", log.next_line()).await.unwrap().unwrap();
    writer.set_nonblocking(true).unwrap();
    while std::io::Write::write(&mut &writer, &[b'x'; 1024]).is_ok() {}
    writer.set_nonblocking(false).unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        rustix::process::kill_process(pid, signal).unwrap();
    }
    assert_eq!(with_timeout("the end", child.wait()).await.unwrap().code(), Some(1));
}
