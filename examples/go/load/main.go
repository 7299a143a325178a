// Load keeps calls going to a gateway and says how they end: a JSON line a second, with what there was until then. It
// ends after -calls, or at SIGTERM, and exits with 1 if a call has failed.
//
//	OS_TOKEN=any load -address dns:///backup-share-gateway-headless:50051 -rate 600 PROJECT SHARE
package main

import (
	"context"
	"encoding/json"
	"flag"
	"log"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver/dns"

	"example.com/caller/gateway"
	"example.com/caller/vbsv2"
)

// Failures that are told in words; the others are counted.
const mostDescribed = 20

// tally is what a line says.
type tally struct {
	mutex     sync.Mutex
	Time      time.Time      `json:"time"`
	Calls     int            `json:"calls"`
	Failed    int            `json:"failed"`
	Failures  map[string]int `json:"failures"`
	P50       float64        `json:"p50_ms"`
	P99       float64        `json:"p99_ms"`
	Worst     float64        `json:"worst_ms"`
	durations []time.Duration
}

func (t *tally) add(took time.Duration, err error) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	t.Calls++
	t.durations = append(t.durations, took)
	if err == nil {
		return
	}
	t.Failed++
	if words := gateway.Describe(err); t.Failures[words] > 0 || len(t.Failures) < mostDescribed {
		t.Failures[words]++
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
	options := gateway.Flags()
	rate := flag.Float64("rate", 600, "calls a second; 0 is as many as the workers can make")
	calls := flag.Int64("calls", 0, "how many calls; 0 is until SIGTERM")
	workers := flag.Int("workers", 64, "calls at once, at most")
	deadline := flag.Duration("deadline", 5*time.Second, "deadline of a call")
	resolve := flag.Duration("resolve-interval", 30*time.Second, "how often DNS is asked, at most; 30 s is grpc-go's own")
	flag.Parse()
	if flag.NArg() != 2 {
		log.Fatal("usage: load [flags] PROJECT SHARE")
	}
	dns.SetMinResolutionInterval(*resolve)
	connection, err := options.Dial()
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	client := vbsv2.NewBackupShareServiceClient(connection)
	request := &vbsv2.GetBackupShareRequest{ProjectId: flag.Arg(0), Id: flag.Arg(1)}

	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	total := &tally{Failures: map[string]int{}}
	call := func() {
		ctx, cancel := context.WithTimeout(context.Background(), *deadline)
		defer cancel()
		ctx = metadata.AppendToOutgoingContext(ctx, "x-auth-token", os.Getenv("OS_TOKEN"))
		began := time.Now()
		_, err := client.GetBackupShare(ctx, request)
		total.add(time.Since(began), err)
	}

	// Each worker takes the next call and makes it when its time has come, whoever is still busy with the one before.
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
