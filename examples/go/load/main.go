// Load is the load generator of the end-to-end checks. It keeps calls going to a gateway and prints a JSON line a second
// with the totals, and how many responses named which availability zone. It ends after -calls, or at SIGTERM, and exits
// with 1 if a call has failed.
//
//	OS_TOKEN=any load -address dns:///backup-share-gateway-headless:50051 -rate 600 PROJECT SHARE
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver/dns"
	"google.golang.org/grpc/status"

	"example.com/backup-share-gateway/examples/go/serviceconfig"
	"example.com/backup-share-gateway/examples/go/vbsv2"
)

// How many kinds of failures are listed; others are counted only.
const maxKinds = 20

// target is a gateway and how to reach it.
type target struct {
	address, ca, cert, key string
	withoutRetries         bool
}

func (t *target) dial() (*grpc.ClientConn, error) {
	transport, err := t.transport()
	if err != nil {
		return nil, err
	}
	config := serviceconfig.WithRetries
	if t.withoutRetries {
		config = serviceconfig.WithoutRetries
	}
	return grpc.NewClient(t.address, grpc.WithTransportCredentials(transport), grpc.WithDefaultServiceConfig(config))
}

func (t *target) transport() (credentials.TransportCredentials, error) {
	if t.ca == "" {
		return insecure.NewCredentials(), nil
	}
	pem, err := os.ReadFile(t.ca)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, errors.New(t.ca + " holds no certificate")
	}
	if t.cert != "" {
		// Read for each handshake, so that a renewed certificate is used.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(t.cert, t.key)
			return &pair, err
		}
	}
	return credentials.NewTLS(config), nil
}

// describe is an error in one line: code, reason, message.
func describe(err error) string {
	failed := status.Convert(err)
	reason := ""
	for _, detail := range failed.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			reason = info.Reason
		}
	}
	return fmt.Sprintf("%s %s: %s", failed.Code(), reason, failed.Message())
}

// tally is the content of a line.
type tally struct {
	mutex     sync.Mutex
	Time      time.Time      `json:"time"`
	Calls     int            `json:"calls"`
	Failed    int            `json:"failed"`
	Failures  map[string]int `json:"failures"`
	Zones     map[string]int `json:"availability_zones"`
	P50       float64        `json:"p50_ms"`
	P99       float64        `json:"p99_ms"`
	Worst     float64        `json:"worst_ms"`
	durations []time.Duration
}

func (t *tally) add(took time.Duration, response *vbsv2.GetBackupShareResponse, err error) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	t.Calls++
	t.durations = append(t.durations, took)
	if err == nil {
		t.Zones[response.GetBackupShare().GetBackup().GetAvailabilityZone()]++
		return
	}
	t.Failed++
	if kind := describe(err); t.Failures[kind] > 0 || len(t.Failures) < maxKinds {
		t.Failures[kind]++
	}
}

func (t *tally) print() {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	t.Time = time.Now().UTC()
	if count := len(t.durations); count > 0 {
		slices.Sort(t.durations)
		milliseconds := func(index int) float64 { return float64(t.durations[index].Microseconds()) / 1000 }
		t.P50, t.P99, t.Worst = milliseconds(count/2), milliseconds(count*99/100), milliseconds(count-1)
	}
	if err := json.NewEncoder(os.Stdout).Encode(t); err != nil {
		log.Fatal(err)
	}
}

func main() {
	gateway := new(target)
	flag.StringVar(&gateway.address, "address", "localhost:50051", "the gateway; dns:///NAME:PORT of a headless Service finds each pod")
	flag.StringVar(&gateway.ca, "ca", "", "PEM `FILE` of the CAs of the gateway's certificate; enables TLS")
	flag.StringVar(&gateway.cert, "cert", "", "PEM `FILE` of the client certificate, for mutual TLS")
	flag.StringVar(&gateway.key, "key", "", "PEM `FILE` of its private key")
	flag.BoolVar(&gateway.withoutRetries, "without-retries", false, "make each call once, so that every failure is counted")
	rate := flag.Float64("rate", 600, "calls a second; 0 is as many as the workers can make")
	calls := flag.Int64("calls", 0, "how many calls; 0 is until SIGTERM")
	workers := flag.Int("workers", 64, "calls at once, at most")
	deadline := flag.Duration("deadline", 5*time.Second, "deadline of a call")
	resolve := flag.Duration("resolve-interval", 30*time.Second, "shortest time between two DNS lookups; grpc-go's default is 30 s")
	flag.Parse()
	if flag.NArg() != 2 {
		log.Fatal("usage: load [flags] PROJECT SHARE")
	}
	dns.SetMinResolutionInterval(*resolve)
	connection, err := gateway.dial()
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	client := vbsv2.NewBackupShareServiceClient(connection)
	request := &vbsv2.GetBackupShareRequest{ProjectId: flag.Arg(0), Id: flag.Arg(1)}

	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	total := &tally{Failures: map[string]int{}, Zones: map[string]int{}}
	call := func() {
		ctx, cancel := context.WithTimeout(context.Background(), *deadline)
		defer cancel()
		ctx = metadata.AppendToOutgoingContext(ctx, "x-auth-token", os.Getenv("OS_TOKEN"))
		began := time.Now()
		response, err := client.GetBackupShare(ctx, request)
		total.add(time.Since(began), response, err)
	}

	// Each worker takes the next call and makes it when it is due, even if earlier calls are still in flight.
	var next atomic.Int64
	var running sync.WaitGroup
	began := time.Now()
	for range *workers {
		running.Go(func() {
			for {
				number := next.Add(1) - 1
				if *calls > 0 && number >= *calls {
					return
				}
				var due time.Duration
				if *rate > 0 {
					due = time.Duration(float64(number) / *rate * float64(time.Second))
				}
				select {
				case <-stop.Done():
					return
				case <-time.After(time.Until(began.Add(due))):
					call()
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { running.Wait(); close(done) }()
	second := time.NewTicker(time.Second)
	for {
		select {
		case <-second.C:
			total.print()
			continue
		case <-done:
		}
		break
	}
	total.print()
	if total.Failed > 0 {
		os.Exit(1)
	}
}
