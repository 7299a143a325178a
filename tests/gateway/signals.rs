//! SIGTERM, SIGINT and SIGHUP.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::support::certificates::TlsFiles;
use crate::support::process::*;
use crate::support::*;

#[tokio::test]
async fn sigterm_and_sigint_exit_0() {
    for signal in [Signal::TERM, Signal::INT] {
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
    gateway.signal(Signal::TERM);
    gateway.line_with_message("draining: not serving any more").await;
    gateway.signal(Signal::TERM);
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
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    for signal in [Signal::TERM, Signal::INT] {
        kill_process(pid, signal).unwrap();
    }
    assert_eq!(with_timeout("the end", child.wait()).await.unwrap().code(), Some(1));
}

#[tokio::test]
async fn sighup_reloads_and_never_ends_process() {
    let (files, upstream) = (TlsFiles::new(), Upstream::stalled().await);
    let long = ["--drain-delay=10m", "--attempt-timeout=10m", "--max-deadline=10m"];
    let flags = [files.tls_flags(), vec![upstream.url_flag()]].concat();
    let command = serve_command(&[&long, &strs(&flags)[..], &[PLAINTEXT]].concat());
    let mut gateway = GatewayProcess::spawn(command).await;
    let tls = files.client_flags();
    let mut get = gateway.get_command(PROJECT, SHARE, &[&tls[0], &tls[3], "--deadline=10m"]);
    let mut call = get.stderr(Stdio::null()).spawn().unwrap();
    upstream.wait_for_requests(1).await;
    for _ in 0..2 {
        files.write_server_pair(&files.servers.issue(&[]));
        gateway.signal(Signal::HUP);
        gateway.line_with_message("SIGHUP: the files are read again if they have changed").await;
        gateway.line_with_message("the new certificate is in use").await;
    }
    gateway.signal(Signal::TERM);
    gateway.line_with_message("draining: not serving any more").await;
    gateway.signal(Signal::HUP);
    gateway.line_with_message("SIGHUP: the files are read again if they have changed").await;
    assert!(gateway.child.try_wait().unwrap().is_none());
    assert!(call.try_wait().unwrap().is_none(), "the call goes on");
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.exit_code().await, Some(1), "the second signal that ends the process");
}

/// Whether the process catches SIGHUP, as Linux tells.
fn catches_sighup(pid: Pid) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(caught.trim(), 16).unwrap() & 1 == 1
}

#[tokio::test]
async fn sighup_before_listening_does_not_end_process() {
    let files = TlsFiles::new();
    let flags = files.tls_flags();
    let mut command = serve_command(&[&["--sandbox"], &strs(&flags)[..]].concat());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    poll_until("the handler", async || catches_sighup(pid).then_some(())).await;
    let mut log = BufReader::new(child.stdout.take().unwrap()).lines();
    let listening = async {
        while !log.next_line().await.unwrap().expect("the process goes on").contains("\"listening\"") {}
    };
    let signals = async {
        loop {
            kill_process(pid, Signal::HUP).unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = with_timeout("listening", listening) => {}
        () = signals => {}
    }
    assert!(child.try_wait().unwrap().is_none());
}
