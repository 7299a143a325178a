# The checks, in tiers and in parts. `.ci/run` runs all of them. A recipe installs its tools below target/ci, at the
# versions that stand here, in .ci/requirements.txt and in the requirements.txt of the checks.

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
helm := "helm.sh/helm/v3/cmd/helm@v3.22.0"
protoc_gen_go := "google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12"
protoc_gen_go_grpc := "google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2"

# What no file may have, in a form that is not found itself.
notes := 'TO[D]O|FIX[M]E'
paths := '/(home|root)/|\.\./share[d]'
registries := '(pypi|pythonhosted|npmjs|(proxy|sum)\.golang|(deb|security)\.debian)\.org|(static|index)\.crates\.io'

# List the recipes.
[private]
default:
    {{ just_executable() }} --list --unsorted

# All checks that do not run the program: two minutes when warm.
[group('tiers')]
check: text format python shell workflow dockerfile proto go clippy documentation fuzz licences

# All tests of the crate.
[group('tiers')]
test: cargo-test

# All end-to-end checks, against the release binary or the one in GATEWAY_BINARY: half an hour when warm.
[group('tiers')]
e2e: calls documents names aksk keystone http2 observability examples envoy image kubernetes manifests cluster

# White space, conflict markers, notes to oneself, paths of one machine, hosts of package registries.
[group('check')]
text: (need "git") (absent notes) (absent paths) (absent registries)
    git diff --check "$(git hash-object -t tree /dev/null)" -- . ':!tests/gateway/fixtures'

# Format of the Rust code.
[group('check')]
format: (need "cargo rustfmt")
    for manifest in Cargo.toml fuzz/Cargo.toml examples/rust/Cargo.toml; do cargo fmt --check --manifest-path $manifest; done

# Lint and format of the Python code.
[group('check')]
python: (install "python checks .ci/requirements.txt")
    ruff check --quiet
    ruff format --quiet --check --diff

# Lint of the shell scripts.
[group('check')]
shell: (need "git apt-get dpkg") (install "debian shellcheck")
    git grep -lE '^#!.*\b(ba)?sh$' | xargs shellcheck --external-sources --source-path=SCRIPTDIR

# Lint of the hosted workflow.
[group('check')]
workflow: (need "go") (install "debian shellcheck") (install "go" actionlint)
    actionlint

# Lint of the Dockerfile.
[group('check')]
dockerfile: (install "python checks .ci/requirements.txt")
    hadolint Dockerfile

# Lint of the .proto, and its compatibility with the last release.
[group('check')]
proto: (install "python checks .ci/requirements.txt")
    buf lint proto
    buf breaking proto --against "$(ls proto/released/*.binpb | sort --version-sort | tail -n 1)"

# The Go code: the generated code is what the .proto makes, and all of it is in order.
[group('check')]
go: (need "go") (install "go" protoc_gen_go) (install "go" protoc_gen_go_grpc) (install "python checks .ci/requirements.txt")
    cd examples/go && buf generate --output {{ tools }}/generated && diff -r {{ tools }}/generated/vbsv2 vbsv2
    for module in examples/go benches/peers/go; do (cd $module && go vet ./... && test -z "$(gofmt -l .)"); done

# Lint of the Rust code.
[group('check')]
clippy: (need "cargo cargo-clippy cc")
    cargo clippy --all-targets --locked -- -D warnings
    cargo clippy --manifest-path examples/rust/Cargo.toml --target-dir target/examples/rust --locked -- -D warnings

# The documentation of the Rust code builds.
[group('check')]
documentation: (need "cargo cc")
    RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --locked --document-private-items

# The fuzz targets compile.
[group('check')]
fuzz: (need "cargo cc")
    cargo check --quiet --manifest-path fuzz/Cargo.toml --locked --target-dir target/fuzz

# What the dependencies are, how they are licensed, and that each in the binary has a licence text. Without advisories,
# whose database is a git repository.
[group('check')]
licences: (need "cargo cc python3") (install "cargo" cargo_deny)
    cargo-deny --locked check -D warnings bans licenses sources
    python3 .ci/components.py notices >/dev/null

# cargo test; `just cargo-test --test gateway upstream_retries` runs those of one surface.
[group('test')]
cargo-test *arguments: (need "cargo cc")
    cargo test --locked {{ arguments }}

# grpcurl, the gateway's own commands, the admin port, TLS, SIGTERM.
[group('e2e')]
calls: (install "go" grpcurl) (pytest "test_calls.py test_tls.py")

# The commands of README.md and docs/*.md print what is printed there. Needs root.
[group('e2e')]
documents: (need "curl unshare nsenter") (install "go" grpcurl) (pytest "test_documents.py")

# Names that change, fail and are slow. Needs root.
[group('e2e')]
names: (need "unshare mount") (pytest "test_names.py")

# AK/SK signatures against the vendor's signer.
[group('e2e')]
aksk: (pytest "test_aksk.py")

# A genuine Keystone, for one project and for many.
[group('e2e')]
keystone: (install "python keystone tests/e2e/keystone/requirements.txt") (install "go" ghz) (pytest "test_keystone.py test_keystone_projects.py")

# HTTP/2, by h2spec.
[group('e2e')]
http2: (install "go" h2spec) (pytest "test_http2.py")

# Prometheus, each query of the dashboard, the alerting rules, the OpenTelemetry Collector.
[group('e2e')]
observability: (need "apt-get dpkg") (install "debian prometheus") (install "collector tests/e2e/collector.yaml") (install "go" grpcurl) (pytest "test_observability.py")

# The clients in examples/: plaintext, TLS, mutual TLS, errors.
[group('e2e')]
examples: (need "cargo cc go") (pytest "test_examples.py")

# Three gateways behind Envoy, stopped and started under load.
[group('e2e')]
envoy: (need "go") (pytest "test_envoy.py")

# The container image, which stays in target/ci/image.tar. Needs root, and installs Debian's buildah and runc.
[group('e2e')]
image: (need "apt-get dpkg readelf") (pytest "test_image.py")

# Kubernetes, compiled: 10 minutes on a new machine. Needs root, and installs Debian packages.
[group('e2e')]
kubernetes: (need "apt-get dpkg go")
    tests/e2e/kubernetes/build.sh >/dev/null

# The manifests and the Helm chart, rendered, compared, and in a dry run of a genuine Kubernetes. Needs root.
[group('e2e')]
manifests: kubernetes (install "debian prometheus") (install "go" helm) (pytest "test_manifests.py test_chart.py")

# The image in a genuine Kubernetes: no operation loses a call. Needs root. IMAGE_ARCHIVE names an image that is built already.
[group('e2e')]
cluster: kubernetes (install "go" grpcurl) (install "go" helm) (pytest "test_cluster.py test_instances.py test_installation.py -m 'not by_hand'")

# Helm in a genuine Kubernetes, all operations in one mode of --auth: 8 minutes, keystone 16. Not part of e2e. Needs root.
[arg("mode", pattern="passthrough|keystone|aksk")]
[group('e2e')]
installation mode: kubernetes (install "go" helm) (install "python keystone tests/e2e/keystone/requirements.txt") (pytest ("test_installation.py -s -k " + mode))

# Some modules of tests/e2e, or parts of one, whose tools are installed: `just pytest test_calls.py -k describes`.
[group('e2e')]
pytest *arguments: (need "openssl") (install "python e2e tests/e2e/requirements.txt") binary
    cd tests/e2e && PYTHONPATH={{ tools }}/e2e PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 python3 -m pytest {{ arguments }}

# The release binary, unless GATEWAY_BINARY names one.
[group('e2e')]
binary: (need "cargo cc")
    [[ -n "${GATEWAY_BINARY:-}" ]] || cargo build --release --locked

# The files of a release, in target/release-VERSION, from a committed tree: all steps of .ci/release, or those that are
# named. Needs root, and is not part of .ci/run.
[group('release')]
release *steps: (install "python checks .ci/requirements.txt") (install "go" helm)
    .ci/release {{ steps }}

# Fails with one line if one of these programs is missing.
[private]
need programs:
    for program in {{ programs }}; do command -v "$program" >/dev/null || { echo "missing: $program" >&2; exit 1; }; done

[private]
install +what:
    .ci/install {{ what }}

# Fails if a file has text of this pattern.
[private]
absent pattern:
    found=0; git grep -nIE '{{ pattern }}' -- . || found=$?; ((found == 1))
