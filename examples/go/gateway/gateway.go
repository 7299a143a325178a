// Package gateway connects to backup-share-gateway as a caller in production should: over all its pods, with mutual TLS
// where the gateway wants it, and with retries of what the gateway itself cannot try again.
package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"os"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// One connection to each address of the name, and calls on all of them in turn. Behind a headless Service that is each
// pod; behind a proxy or on localhost it changes nothing.
const balancing = `"loadBalancingConfig": [{"round_robin": {}}]`

// UNAVAILABLE covers a pod that stops or is gone, which the gateway cannot mend. The gateway sees that such a call is a
// second try, and then asks VBS once only. DEADLINE_EXCEEDED has no time left, and RESOURCE_EXHAUSTED is also what a
// request that is too large gets.
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

// Options say where the gateway is and how to reach it.
type Options struct {
	Address        string
	CA, Cert, Key  string
	ServerName     string
	WithoutRetries bool
}

// Flags registers the options with the command line.
func Flags() *Options {
	options := new(Options)
	flag.StringVar(&options.Address, "address", "localhost:50051", "the gateway; dns:///NAME:PORT of a headless Service finds each pod")
	flag.StringVar(&options.CA, "ca", "", "PEM file of the authorities of the gateway's certificate; with it the connection is TLS")
	flag.StringVar(&options.Cert, "cert", "", "PEM file of the caller's certificate, for mutual TLS")
	flag.StringVar(&options.Key, "key", "", "PEM file of its key")
	flag.StringVar(&options.ServerName, "server-name", "", "the name in the gateway's certificate, if it is not that of the address")
	flag.BoolVar(&options.WithoutRetries, "without-retries", false, "let each failure through, to see it")
	return options
}

// Dial makes a connection, which connects when it is first used.
func (o *Options) Dial() (*grpc.ClientConn, error) {
	transport, err := o.transport()
	if err != nil {
		return nil, err
	}
	config := "{" + balancing + ", " + retries + "}"
	if o.WithoutRetries {
		config = "{" + balancing + "}"
	}
	return grpc.NewClient(o.Address, grpc.WithTransportCredentials(transport), grpc.WithDefaultServiceConfig(config))
}

func (o *Options) transport() (credentials.TransportCredentials, error) {
	if o.CA == "" {
		return insecure.NewCredentials(), nil
	}
	pem, err := os.ReadFile(o.CA)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: o.ServerName}
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, errors.New(o.CA + " holds no certificate")
	}
	if o.Cert != "" {
		// Read for each handshake, so that a renewed certificate is used.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(o.Cert, o.Key)
			return &pair, err
		}
	}
	return credentials.NewTLS(config), nil
}

// Reason is what to act on, beside the code; the message is for people. It is empty if the status is not the gateway's
// but the client library's own, or a proxy's.
func Reason(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.Domain == "backup-share-gateway" {
			return info.Reason
		}
	}
	return ""
}

// Describe is an error in one line.
func Describe(err error) string {
	return fmt.Sprintf("%s %s: %s", status.Code(err), Reason(err), status.Convert(err).Message())
}
