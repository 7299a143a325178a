//! SIGTERM and SIGINT.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};

use crate::support::process::*;
use crate::support::*;

#[tokio::test]
async fn sigterm_and_sigint_end_it_in_order() {
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let mut served = Served::start(&["--sandbox"]).await;
        served.signal(signal);
        let status = soon("the end", served.child.wait()).await.unwrap();
        assert_eq!(status.code(), Some(0));
    }
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once_whatever_runs() {
    let upstream = Upstream::scripted(|_, _| vec![Step::Stall]).await;
    let flags =
        ["--allow-plaintext-upstream", "--drain-timeout=10m", "--attempt-timeout=10m", "--max-deadline=10m"];
    let url = format!("--upstream-url={}", upstream.url());
    let mut served = Served::start(&[&flags[..], &[&url]].concat()).await;
    let mut call =
        gateway(&["get", "--address", &served.grpc, "--project-id", PROJECT, SHARE, "--deadline=10m"]);
    let _call = call.env("OS_TOKEN", TOKEN).stderr(Stdio::null()).spawn().unwrap();
    upstream.received(1).await;
    served.signal(rustix::process::Signal::TERM);
    while served.line().await["message"] != "draining: not serving any more" {}
    served.signal(rustix::process::Signal::TERM);
    let status = soon("the end", served.child.wait()).await.unwrap();
    assert_eq!(status.code(), Some(1));
    let line = served.line().await;
    assert_eq!(
        (&line["message"], &line["rpc.code"]),
        (&"call".into(), &"CANCELLED".into()),
        "cut off, but not unsaid"
    );
}

#[tokio::test]
async fn a_second_signal_ends_it_though_nobody_reads_what_it_says() {
    // Standard output and error are one, as behind `2>&1 |`.
    let (reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
    let end = || Stdio::from(std::os::fd::OwnedFd::from(writer.try_clone().unwrap()));
    let mut command = gateway(&[
        "serve",
        "--upstream-url=https://vbs.example",
        "--listen=127.0.0.1:0",
        "--admin-listen=127.0.0.1:0",
        "--drain-delay=10m",
    ]);
    let mut child = command.stdout(end()).stderr(end()).spawn().unwrap();
    reader.set_nonblocking(true).unwrap();
    let mut log = BufReader::new(tokio::net::UnixStream::from_std(reader).unwrap()).lines();
    soon("the first line", log.next_line()).await.unwrap().unwrap();
    writer.set_nonblocking(true).unwrap();
    while std::io::Write::write(&mut &writer, &[b'x'; 1024]).is_ok() {}
    writer.set_nonblocking(false).unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        rustix::process::kill_process(pid, signal).unwrap();
    }
    assert_eq!(soon("the end", child.wait()).await.unwrap().code(), Some(1));
}
