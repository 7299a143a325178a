//! A whole call over real sockets: a caller, a gateway made of the flags of `serve`, and an upstream that sends the
//! input as it is, head and all, and closes.
//!
//! - Never a panic in any part: libFuzzer's hook ends the process at the first one, caught or not.
//! - There is an answer, and no time runs out: the upstream has said all that it will.
//! - An OK is the share asked for, out of a body under the status 200, and nothing else.
//! - The rules of every status hold.
#![no_main]

use std::ffi::OsString;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backup_share_gateway::app::{self, Control};
use backup_share_gateway::config::{self, Command};
use backup_share_gateway::domain::ShareId;
use backup_share_gateway::proto::backup_share_service_client::BackupShareServiceClient;
use backup_share_gateway::proto::{GetBackupShareRequest, GetBackupShareResponse};
use backup_share_gateway::upstream::read_share;
use backup_share_gateway_fuzz::{PROJECT, REQUEST_ID, SHARE, TOKEN, assert_status_rules};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_types::StatusExt;

thread_local! {
    /// Made once; it lives as long as the process.
    static STAGE: Stage = Stage::set();
}

fuzz_target!(|reply: &[u8]| {
    match STAGE.with(|stage| stage.play(reply)) {
        Ok(answer) => assert!(stands_in(reply, &answer), "{answer:?}"),
        Err(status) => {
            assert_status_rules(&status);
            let details = status.get_error_details();
            let info = details.error_info().expect("ErrorInfo");
            let upstreams = info.reason.starts_with("UPSTREAM_") || info.reason == "BACKUP_SHARE_NOT_FOUND";
            assert!(upstreams && info.reason != "UPSTREAM_UNREACHABLE", "{status:?}");
            // With an HTTP status it is the upstream's 408 or 504.
            let in_time = info.reason != "UPSTREAM_TIMEOUT" || info.metadata.contains_key("httpStatus");
            assert!(in_time, "{status:?}");
        }
    }
});

/// One thread with everything on it, so that an input always takes the same way.
struct Stage {
    runtime: Runtime,
    client: BackupShareServiceClient<Channel>,
    reply: Arc<Mutex<Vec<u8>>>,
}

impl Stage {
    fn set() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let reply = Arc::new(Mutex::new(Vec::new()));
        let said = Arc::clone(&reply);
        let client = runtime.block_on(async {
            let upstream = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = upstream.local_addr().expect("an address");
            tokio::spawn(async move {
                while let Ok((stream, _)) = upstream.accept().await {
                    let said = Arc::clone(&said);
                    tokio::spawn(async move { answer(stream, &said).await });
                }
            });
            let url = format!("--upstream-url=http://{address}");
            let flags = ["--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--allow-plaintext-upstream"];
            // The replies do not change between attempts: retries would only take time.
            let more = ["--max-attempts=1", "--workers=1", url.as_str()];
            let line =
                ["backup-share-gateway", "serve"].iter().chain(&flags).chain(&more).map(OsString::from);
            let Ok(Command::Serve(config)) = config::parse(line) else { panic!("not the flags of serve") };
            let gateway = app::build(*config).await.expect("a gateway");
            let gateway = gateway.bind().expect("ports");
            let address = gateway.grpc_address();
            tokio::spawn(gateway.run(Control::default()));
            let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a URL");
            BackupShareServiceClient::new(endpoint.connect().await.expect("a connection"))
        });
        Self { runtime, client, reply }
    }

    /// Asks for the share while the upstream says `reply`.
    fn play(&self, reply: &[u8]) -> Result<GetBackupShareResponse, Status> {
        *self.reply.lock().expect("a reply") = reply.to_vec();
        let mut request =
            Request::new(GetBackupShareRequest { project_id: PROJECT.into(), id: SHARE.into() });
        request.metadata_mut().insert("x-auth-token", TOKEN.parse().expect("a token"));
        request.metadata_mut().insert("x-request-id", REQUEST_ID.parse().expect("an ID"));
        let mut client = self.client.clone();
        let call =
            async { tokio::time::timeout(Duration::from_secs(10), client.get_backup_share(request)).await };
        let answer = self.runtime.block_on(call).expect("there is no answer");
        answer.map(tonic::Response::into_inner)
    }
}

/// The upstream: reads a request, sends the reply, closes, and waits for the peer to close.
async fn answer(mut stream: TcpStream, reply: &Mutex<Vec<u8>>) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let reply = reply.lock().expect("a reply").clone();
    stream.write_all(&reply).await?;
    stream.shutdown().await?;
    while stream.read(&mut [0; 1024]).await? > 0 {}
    Ok(())
}

/// Whether `answer` is what a body in `reply` says, plain or in chunks, right behind a head with the status 200.
fn stands_in(reply: &[u8], answer: &GetBackupShareResponse) -> bool {
    let asked = ShareId::parse(SHARE.into()).expect("an ID");
    let is_answer = |body: &[u8]| {
        let mut values = serde_json::Deserializer::from_slice(body).into_iter::<serde::de::IgnoredAny>();
        values.next();
        // Where the head tells the length there may be more behind it.
        let share = read_share(&body[..values.byte_offset()], &asked, drop);
        share.is_ok_and(|share| GetBackupShareResponse::from(share) == *answer)
    };
    let ends = (1..=reply.len()).filter(|end| {
        let head = &reply[..*end];
        head.ends_with(b"\n\n") || head.ends_with(b"\n\r\n")
    });
    ends.filter(|end| is_ok(&reply[..*end]))
        .any(|end| is_answer(&reply[end..]) || is_answer(&join_chunks(&reply[end..])))
}

/// Whether the last status line is of a 200.
fn is_ok(head: &[u8]) -> bool {
    let last = head.split(|b| *b == b'\n').rfind(|line| line.starts_with(b"HTTP/1."));
    last.is_some_and(|line| line.get(8..12) == Some(b" 200"))
}

/// What stands in the chunks, up to the first that is broken.
fn join_chunks(mut rest: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    let mut next = || {
        let end = rest.iter().position(|b| *b == b'\n')?;
        let (line, more) = rest.split_at(end + 1);
        let digits = std::str::from_utf8(line).ok()?.split(|c: char| !c.is_ascii_hexdigit()).next()?;
        let (chunk, more) =
            more.split_at_checked(usize::from_str_radix(digits, 16).ok().filter(|size| *size > 0)?)?;
        rest = more.strip_prefix(b"\r\n").or_else(|| more.strip_prefix(b"\n"))?;
        Some(chunk)
    };
    while let Some(chunk) = next() {
        whole.extend_from_slice(chunk);
    }
    whole
}
