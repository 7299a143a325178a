//! The gateway with TLS on both sides, next to the gateway without it.

use std::net::Ipv4Addr;

use super::common::DOCUMENTED;
use super::common::load::Callers;
use super::common::process::Process;
use super::common::tls::Pki;
use super::common::turn::{TESTED, Turn, cpu_ratio, middle, pinned, warm_up};
use super::common::upstream::Upstream;
use super::report::Tls;
use super::{LOADED, Options};

pub(crate) async fn measure(options: &Options) -> Tls {
    let (pki, upstream) = (Pki::new(), Upstream::new(DOCUMENTED));
    let (in_flight, connections) = LOADED;
    let plain = upstream.start().await;
    let plain = pinned(TESTED, || Process::gateway(plain, &[], &[]));
    let url = format!("https://{}", upstream.start_tls(pki.acceptor()).await);
    let upstream_ca = pki.upstream_flag();
    let flags: Vec<&str> = pki.server_flags().chain([upstream_ca.as_str()]).collect();
    let tls = pinned(TESTED, || Process::gateway_at(&url, &flags, &[], &[]));
    let of_plain = Callers::connect(plain.grpc, connections).await;
    let of_tls = Callers::connect_tls(Ipv4Addr::LOCALHOST, tls.grpc, connections, &pki).await;
    warm_up(&of_plain, in_flight).await;
    warm_up(&of_tls, in_flight).await;
    let (mut plains, mut encrypted) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        plains.push(Turn::saturate(&plain, &of_plain, in_flight, options.turn()).await);
        encrypted.push(Turn::saturate(&tls, &of_tls, in_flight, options.turn()).await);
    }
    Tls {
        plain_us: middle(&plains, |turn| turn.cpu),
        tls_us: middle(&encrypted, |turn| turn.cpu),
        cpu_ratio: cpu_ratio(&encrypted, &plains),
    }
}
