// Go is the gateway's translation as a Go service has it: grpc-go in front, net/http and encoding/json behind it. The peers
// bench builds it, and measures it next to the gateway. Like the floor it has no checks, limits, retries or metrics; with -log
// it writes a line of JSON for each call.
//
// What is tuned: connections to the upstream are kept for as many calls as may be in flight, requests go to the transport
// without the client that would follow redirects, response bodies are read into pooled buffers, the workers of grpc-go keep
// their grown stacks, and log lines are buffered. The bench sets GOMAXPROCS=1 and GOGC=400.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"example.com/backup-share-gateway/examples/go/vbsv2"
)

const (
	// Calls that may be in flight.
	maxInFlight = 1024
	// Goroutines of grpc-go that serve one call after the other.
	streamWorkers = 256
)

// share is the upstream's document. An absent key and null are nil.
type share struct {
	Shared struct {
		ID            *string    `json:"id"`
		BackupID      *string    `json:"backup_id"`
		FromProjectID *string    `json:"from_project_id"`
		ToProjectID   *string    `json:"to_project_id"`
		CreatedAt     *timestamp `json:"created_at"`
		UpdatedAt     *timestamp `json:"updated_at"`
		Backup        *backup    `json:"backup"`
	} `json:"shared"`
}

type backup struct {
	ID                  *string    `json:"id"`
	Name                *string    `json:"name"`
	Description         *string    `json:"description"`
	Status              *string    `json:"status"`
	FailReason          *string    `json:"fail_reason"`
	Size                *int64     `json:"size"`
	ObjectCount         *int64     `json:"object_count"`
	Container           *string    `json:"container"`
	AvailabilityZone    *string    `json:"availability_zone"`
	VolumeID            *string    `json:"volume_id"`
	SnapshotID          *string    `json:"snapshot_id"`
	IsIncremental       *bool      `json:"is_incremental"`
	HasDependentBackups *bool      `json:"has_dependent_backups"`
	ServiceMetadata     *string    `json:"service_metadata"`
	DataTimestamp       *timestamp `json:"data_timestamp"`
	CreatedAt           *timestamp `json:"created_at"`
	UpdatedAt           *timestamp `json:"updated_at"`
}

// timestamp is a time without a zone, which is UTC.
type timestamp time.Time

func (t *timestamp) UnmarshalText(text []byte) error {
	parsed, err := time.Parse("2006-01-02T15:04:05.999999999", string(text))
	*t = timestamp(parsed)
	return err
}

func (t *timestamp) message() *timestamppb.Timestamp {
	if t == nil {
		return nil
	}
	return timestamppb.New(time.Time(*t))
}

func (s *share) message() *vbsv2.GetBackupShareResponse {
	shared := &s.Shared
	return &vbsv2.GetBackupShareResponse{BackupShare: &vbsv2.BackupShare{
		Id:            shared.ID,
		BackupId:      shared.BackupID,
		FromProjectId: shared.FromProjectID,
		ToProjectId:   shared.ToProjectID,
		CreatedAt:     shared.CreatedAt.message(),
		UpdatedAt:     shared.UpdatedAt.message(),
		Backup:        shared.Backup.message(),
	}}
}

func (b *backup) message() *vbsv2.Backup {
	if b == nil {
		return nil
	}
	return &vbsv2.Backup{
		Id:                  b.ID,
		Name:                b.Name,
		Description:         b.Description,
		Status:              b.Status,
		FailReason:          b.FailReason,
		Size:                b.Size,
		ObjectCount:         b.ObjectCount,
		Container:           b.Container,
		AvailabilityZone:    b.AvailabilityZone,
		VolumeId:            b.VolumeID,
		SnapshotId:          b.SnapshotID,
		IsIncremental:       b.IsIncremental,
		HasDependentBackups: b.HasDependentBackups,
		ServiceMetadata:     b.ServiceMetadata,
		DataTimestamp:       b.DataTimestamp.message(),
		CreatedAt:           b.CreatedAt.message(),
		UpdatedAt:           b.UpdatedAt.message(),
	}
}

type server struct {
	vbsv2.UnimplementedBackupShareServiceServer
	upstream  string
	transport *http.Transport
	bodies    sync.Pool
	log       *slog.Logger
}

func (s *server) GetBackupShare(
	ctx context.Context, request *vbsv2.GetBackupShareRequest,
) (*vbsv2.GetBackupShareResponse, error) {
	if s.log == nil {
		response, _, err := s.get(ctx, request)
		return response, err
	}
	began := time.Now()
	response, upstreamRequestID, err := s.get(ctx, request)
	address := ""
	if caller, ok := peer.FromContext(ctx); ok {
		address = caller.Addr.String()
	}
	s.log.LogAttrs(ctx, slog.LevelInfo, "call",
		slog.String("rpc.method", vbsv2.BackupShareService_GetBackupShare_FullMethodName),
		slog.String("rpc.code", status.Code(err).String()),
		slog.String("upstream_request_id", upstreamRequestID),
		slog.String("peer", address),
		slog.Float64("duration_ms", float64(time.Since(began).Microseconds())/1000))
	return response, err
}

// get returns the share, and the upstream's request ID.
func (s *server) get(
	ctx context.Context, request *vbsv2.GetBackupShareRequest,
) (*vbsv2.GetBackupShareResponse, string, error) {
	outgoing := &http.Request{
		Method: http.MethodGet,
		URL: &url.URL{
			Scheme: "http",
			Host:   s.upstream,
			Path:   "/v2/" + request.ProjectId + "/os-vendor-backup-sharing/" + request.Id,
		},
		Header: http.Header{
			"X-Auth-Token": metadata.ValueFromIncomingContext(ctx, "x-auth-token"),
			"Accept":       {"application/json"},
		},
	}
	response, err := s.transport.RoundTrip(outgoing.WithContext(ctx))
	if err != nil {
		return nil, "", status.Error(codes.Unavailable, err.Error())
	}
	defer response.Body.Close()
	requestID := response.Header.Get("X-Request-Id")
	body := s.bodies.Get().(*bytes.Buffer)
	defer s.bodies.Put(body)
	body.Reset()
	if _, err := body.ReadFrom(response.Body); err != nil {
		return nil, requestID, status.Error(codes.Unavailable, err.Error())
	}
	if response.StatusCode != http.StatusOK {
		return nil, requestID, status.Error(codes.Unknown, response.Status)
	}
	var share share
	if err := json.Unmarshal(body.Bytes(), &share); err != nil {
		return nil, requestID, status.Error(codes.Internal, err.Error())
	}
	return share.message(), requestID, nil
}

// buffered collects lines, and writes them at the latest after a second.
type buffered struct {
	mutex  sync.Mutex
	writer *bufio.Writer
}

func newBuffered(file *os.File) *buffered {
	b := &buffered{writer: bufio.NewWriterSize(file, 64*1024)}
	go func() {
		for range time.Tick(time.Second) {
			b.mutex.Lock()
			b.writer.Flush()
			b.mutex.Unlock()
		}
	}()
	return b
}

func (b *buffered) Write(line []byte) (int, error) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return b.writer.Write(line)
}

func main() {
	upstream := flag.String("upstream", "", "`ADDRESS` of the upstream")
	path := flag.String("log", "", "`FILE` for a line of JSON for each call; without it, none is written")
	flag.Parse()
	s := &server{
		upstream: *upstream,
		transport: &http.Transport{
			MaxIdleConnsPerHost: maxInFlight,
			DisableCompression:  true,
		},
		bodies: sync.Pool{New: func() any { return new(bytes.Buffer) }},
	}
	if *path != "" {
		file, err := os.Create(*path)
		if err != nil {
			log.Fatal(err)
		}
		s.log = slog.New(slog.NewJSONHandler(newBuffered(file), nil))
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("{\"grpc.address\": %q}\n", listener.Addr())
	gateway := grpc.NewServer(
		grpc.MaxConcurrentStreams(maxInFlight),
		grpc.NumStreamWorkers(streamWorkers),
	)
	vbsv2.RegisterBackupShareServiceServer(gateway, s)
	log.Fatal(gateway.Serve(listener))
}
