//! The filter of the log: the events that `--log` enables, and spans only if one of its directives names a span.

use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Metadata, Subscriber};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Directive;
use tracing_subscriber::layer::{Context, Filter};

/// The directives of an `EnvFilter` for a list such as `warn,backup_share_gateway::app=debug,h2=info`.
///
/// A level without a target is that of the gateway's own events. Those of the libraries are logged at `error` and above unless
/// a directive names their target: what a peer sends must not fill the log. `EnvFilter` takes a word that is no level for a
/// target, so that `warning` would silence everything; here it is an error.
pub fn parse_filter(text: &str) -> Result<String, String> {
    let mut libraries = LevelFilter::ERROR;
    let mut directives = Vec::new();
    for item in text.split(',').map(str::trim) {
        let target = item.rsplit_once('=').map(|(target, _)| target);
        let level = level(item.rsplit('=').next().unwrap_or_default());
        match (target, level) {
            (None, Some(level)) => {
                libraries = level.min(LevelFilter::ERROR);
                directives.push(format!("{}={level}", env!("CARGO_CRATE_NAME")));
            }
            (Some(target), Some(_)) if !target.contains(' ') && item.parse::<Directive>().is_ok() => {
                directives.push(item.to_owned());
            }
            (None | Some(_), None | Some(_)) => {
                return Err(format!(
                    "must be a level (off, error, warn, info, debug or trace) or a list of levels and target=level; '{item}' is neither"
                ));
            }
        }
    }
    Ok(format!("{libraries},{}", directives.join(",")))
}

/// `tracing` takes an empty text for a level.
fn level(text: &str) -> Option<LevelFilter> {
    if text.is_empty() { None } else { text.parse().ok() }
}

/// An `EnvFilter` without spans, unless a directive such as `[call{rpc.method=…}]=debug` depends on them: a span costs more than a
/// log line.
pub(super) struct LogFilter {
    filter: EnvFilter,
    tracks_spans: bool,
}

impl LogFilter {
    pub(super) fn new(directives: &str) -> Self {
        Self { filter: EnvFilter::new(directives), tracks_spans: directives.contains('[') }
    }

    fn ignores(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && !self.tracks_spans
    }
}

impl<S: Subscriber> Filter<S> for LogFilter {
    fn enabled(&self, metadata: &Metadata<'_>, context: &Context<'_, S>) -> bool {
        !self.ignores(metadata) && Filter::enabled(&self.filter, metadata, context)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.ignores(metadata) {
            return Interest::never();
        }
        Filter::<S>::callsite_enabled(&self.filter, metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Filter::<S>::max_level_hint(&self.filter)
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if self.tracks_spans {
            Filter::on_new_span(&self.filter, attributes, id, context);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if self.tracks_spans {
            Filter::on_record(&self.filter, id, values, context);
        }
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        if self.tracks_spans {
            Filter::on_enter(&self.filter, id, context);
        }
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        if self.tracks_spans {
            Filter::on_exit(&self.filter, id, context);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        if self.tracks_spans {
            Filter::on_close(&self.filter, id, context);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_is_that_of_the_gateway_and_libraries_are_named() {
        for (text, directives) in [
            ("info", "error,backup_share_gateway=info"),
            ("DEBUG", "error,backup_share_gateway=debug"),
            ("off", "off,backup_share_gateway=off"),
            ("info,h2=debug", "error,backup_share_gateway=info,h2=debug"),
            (
                "warn, backup_share_gateway::app=info",
                "error,backup_share_gateway=warn,backup_share_gateway::app=info",
            ),
            ("h2=debug", "error,h2=debug"),
            ("info,[call{rpc.method=x}]=trace", "error,backup_share_gateway=info,[call{rpc.method=x}]=trace"),
        ] {
            assert_eq!(parse_filter(text).as_deref(), Ok(directives));
        }
    }

    #[test]
    fn item_that_is_neither_a_level_nor_target_and_level_is_an_error() {
        for text in [
            "",
            " ",
            ",",
            ",,",
            "info,",
            ",info",
            "info,,warn",
            "warning",
            "verbose",
            "infoo",
            "all",
            "info,foo",
            "foo,info",
            "h2",
            "h2=",
            "h2=warning",
            "=info",
            "=",
            "a=b=c",
            "a=b=info",
            "info h2=debug",
            "6",
            "-1",
            "[call]",
            "[call{x=y}]",
            "h2=debug;info",
        ] {
            assert!(parse_filter(text).is_err(), "{text}");
        }
    }
}
