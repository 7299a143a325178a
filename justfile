# The checks, in tiers and in parts. `.ci/run` runs all of them. A recipe installs its tools below target/ci, at the
# versions that stand here, in .ci/requirements.txt and in tests/e2e/requirements.txt.

set quiet
set shell := ["bash", "-euo", "pipefail", "-c"]

tools := justfile_directory() / "target/ci"

export PATH := tools / "checks/bin" + ":" + tools / "shellcheck/usr/bin" + ":" + tools / "bin" + ":" + env("PATH")
export PYTHONDONTWRITEBYTECODE := "1"

actionlint := "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12"
cargo_deny := "cargo-deny@0.20.2"
ghz := "github.com/bojand/ghz/cmd/ghz@v0.120.0"
grpcurl := "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3"
h2spec := "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible"
protoc_gen_go := "google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12"
protoc_gen_go_grpc := "google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2"

# List the recipes.
[private]
default:
    just --list --unsorted

# All checks that do not run the program: under two minutes when warm.
[group('tiers')]
check: text format python shell workflow dockerfile proto go clippy documentation fuzz licences

# All tests of the crate.
[group('tiers')]
test: cargo-test

# All end-to-end checks: half an hour when warm.
[group('tiers')]
e2e: calls documents names http2 observability envoy

# White space, conflict markers, notes to oneself, paths of one machine, hosts of package registries.
[group('check')]
text: (need "git")
    git diff --check "$(git hash-object -t tree /dev/null)" -- . ':!tests/gateway/fixtures'
    just absent '(TO''DO|FIX''ME)|/(home|root)/|\.\./sha''red'
    just absent '(pypi|pythonhosted|npmjs|(proxy|sum)\.golang|(deb|security)\.debian)\.org|(static|index)\.crates\.io'

# No file has text of this pattern.
[private]
absent pattern:
    found=0; git grep -nIE '{{ pattern }}' -- . || found=$?; ((found == 1))

# Format of the Rust code.
[group('check')]
format: (need "cargo rustfmt")
    cargo fmt --check

# Lint and format of the Python code.
[group('check')]
python: _checks
    ruff check --quiet
    ruff format --quiet --check --diff

# Lint of the shell scripts.
[group('check')]
shell: (need "git apt-get dpkg")
    .ci/install debian shellcheck
    git grep -lE '^#!.*\b(ba)?sh$' | xargs shellcheck

# Lint of the hosted workflow.
[group('check')]
workflow: (need "go")
    .ci/install go {{ actionlint }}
    actionlint

# Lint of the Dockerfile.
[group('check')]
dockerfile: _checks
    hadolint Dockerfile

# Lint of the .proto, and its compatibility with the last release.
[group('check')]
proto: _checks
    buf lint proto
    buf breaking proto --against "$(ls proto/released/*.binpb | sort -V | tail -n 1)"

# The Go example: its generated code is what the .proto makes, and all of it is in order.
[group('check')]
go: (need "go") _checks
    .ci/install go {{ protoc_gen_go }}
    .ci/install go {{ protoc_gen_go_grpc }}
    cd examples/go && buf generate --output {{ tools }}/generated && diff -r {{ tools }}/generated/vbsv2 vbsv2
    cd examples/go && go vet ./... && test -z "$(gofmt -l .)"

# Lint of the Rust code.
[group('check')]
clippy: (need "cargo cargo-clippy cc")
    cargo clippy --all-targets --locked -- -D warnings

# The documentation of the Rust code builds.
[group('check')]
documentation: (need "cargo cc")
    RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --locked --document-private-items

# The fuzz targets compile.
[group('check')]
fuzz: (need "cargo cc")
    cargo check --quiet --manifest-path fuzz/Cargo.toml --locked --target-dir target/fuzz

# What the dependencies are and how they are licensed. Without advisories, whose database is a git repository.
[group('check')]
licences: (need "cargo cc")
    .ci/install cargo {{ cargo_deny }}
    cargo-deny --locked check -D warnings bans licenses sources

# cargo test; `just cargo-test --test gateway upstream_retries` runs those of one surface.
[group('test')]
cargo-test *arguments: (need "cargo cc")
    cargo test --locked {{ arguments }}

# The release binary, which the end-to-end checks run; a path in GATEWAY_BINARY replaces it.
[group('e2e')]
binary: (need "cargo cc")
    [[ -n "${GATEWAY_BINARY:-}" ]] || cargo build --release --locked

# grpcurl, the gateway's own commands, the admin port, SIGTERM.
[group('e2e')]
calls: _grpcurl (pytest "test_calls.py test_tls.py")

# The commands of README.md and docs/*.md print what is printed there. Needs root.
[group('e2e')]
documents: (need "curl unshare nsenter") _grpcurl (pytest "test_documents.py")

# Names that change, fail and are slow. Needs root.
[group('e2e')]
names: (need "unshare mount") (pytest "test_names.py")

# h2spec against the gRPC port.
[group('e2e')]
http2: (need "go")
    .ci/install go {{ h2spec }}
    just pytest test_http2.py

# Prometheus, each query of the dashboard, the alerting rules, the OpenTelemetry Collector.
[group('e2e')]
observability: (need "apt-get dpkg") _grpcurl
    .ci/install debian prometheus
    .ci/install collector tests/e2e/collector.yaml
    just pytest test_observability.py

# Three gateways behind Envoy, stopped and started under load.
[group('e2e')]
envoy: (need "go") (pytest "test_envoy.py")

# One module of tests/e2e, or some of it: `just pytest test_calls.py -k describes`.
[group('e2e')]
pytest *arguments: (need "python3 openssl") binary
    .ci/install python e2e tests/e2e/requirements.txt
    cd tests/e2e && PYTHONPATH={{ tools }}/e2e PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 python3 -m pytest {{ arguments }}

[private]
need programs:
    for program in {{ programs }}; do command -v "$program" >/dev/null || { echo "missing: $program" >&2; exit 1; }; done

_checks: (need "python3")
    .ci/install python checks .ci/requirements.txt

_grpcurl: (need "go")
    .ci/install go {{ grpcurl }}
