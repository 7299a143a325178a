# The gateway in an image of its own: no shell, no package manager, not root. A build needs nothing but this folder:
#
#   docker build --tag backup-share-gateway:0.2.0 --build-arg SOURCE_REVISION="$(git rev-parse HEAD)" .
#
# With `docker buildx build --platform linux/amd64,linux/arm64`, each platform is built on an emulator, or on a builder of
# its own; nothing here depends on the platform.
#
# The tags name Debian 12 on both sides, so that what is linked in the first stage is there in the second one.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build

# The dependencies alone, for a package that has no code yet: this layer is made again only when they change. Tests and
# benches, whose files do not come along, are taken out of the manifest.
COPY Cargo.toml Cargo.lock ./
RUN sed -i '/^\[\[/,/^$/d' Cargo.toml \
    && mkdir src \
    && touch src/lib.rs \
    && echo 'fn main() {}' >src/main.rs \
    && cp src/main.rs build.rs \
    && cargo build --release --locked

COPY build.rs ./
COPY proto proto
COPY src src
# The revision that `--version` names. The repository is not copied.
ARG SOURCE_REVISION=unknown
# Files keep the times that they had; cargo must see that these are newer than what it has built.
RUN touch build.rs src/main.rs src/lib.rs && cargo build --release --locked

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /build/target/release/backup-share-gateway /usr/local/bin/backup-share-gateway
# As a number, which is what `runAsNonRoot` can check.
USER 65532:65532
EXPOSE 50051 9090
# With --sandbox the default is the loopback address, on which a container's ports cannot be reached.
ENV GATEWAY_LISTEN=0.0.0.0:50051 \
    GATEWAY_ADMIN_LISTEN=0.0.0.0:9090
# The gateway itself is PID 1 and takes SIGTERM. There is no HEALTHCHECK: the orchestrator's probes ask the admin port.
ENTRYPOINT ["/usr/local/bin/backup-share-gateway"]
CMD ["serve"]
# The version is that of Cargo.toml; a test compares them.
ARG SOURCE_REVISION=unknown
LABEL org.opencontainers.image.title="backup-share-gateway" \
      org.opencontainers.image.description="A gRPC gateway to the backup shares of the Volume Backup Service (VBS)" \
      org.opencontainers.image.source="https://example.com/backup-share-gateway" \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.revision="${SOURCE_REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
