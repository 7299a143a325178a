// Package serviceconfig has the gRPC service configs for clients of backup-share-gateway.
package serviceconfig

// Round robin makes one connection to each address of the name, which behind a headless Service is each pod.
const balancing = `"loadBalancingConfig": [{"round_robin": {}}]`

// UNAVAILABLE covers a pod that stops or is gone, which the gateway itself cannot retry. grpc-go marks such a call, and the
// gateway makes one attempt only for it. The other codes are left out: DEADLINE_EXCEEDED has no time left, and
// RESOURCE_EXHAUSTED is also what a request that is too large gets. Where the gateway says how long to wait
// (grpc-retry-pushback-ms), grpc-go does so in place of the backoff.
const retries = `"methodConfig": [{
  "name": [{"service": "vbs.v2.BackupShareService"}],
  "retryPolicy": {
    "maxAttempts": 3,
    "initialBackoff": "0.2s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"]
  }
}]`

const (
	// WithRetries is for clients.
	WithRetries = "{" + balancing + ", " + retries + "}"
	// WithoutRetries shows each failure. It is for tests.
	WithoutRetries = "{" + balancing + "}"
)
