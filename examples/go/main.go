// Get-backup-share reads one backup share through backup-share-gateway. README.md shows how to run it.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	"example.com/backup-share-gateway/examples/go/serviceconfig"
	"example.com/backup-share-gateway/examples/go/vbsv2"
)

const (
	tokenVariable = "OS_TOKEN"
	maxTokenBytes = 32768
)

type options struct {
	ca, cert, key, serverName string
	deadline                  float64
	allowPlaintext            bool
}

func main() {
	var given options
	flag.StringVar(&given.ca, "ca", "", "PEM `FILE` of the CAs that verify the gateway's certificate; without it, the system's roots")
	flag.StringVar(&given.cert, "cert", "", "PEM `FILE` of the client certificate, for mutual TLS")
	flag.StringVar(&given.key, "key", "", "PEM `FILE` of its private key")
	flag.StringVar(&given.serverName, "server-name", "", "`NAME` in the gateway's certificate, if it is not the host of ADDRESS")
	flag.Float64Var(&given.deadline, "deadline", 10, "time limit of the call in `SECONDS`, its retries included")
	flag.BoolVar(&given.allowPlaintext, "allow-plaintext", false,
		"permit http to an address that is not loopback: token and share are sent unencrypted")
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), "Usage: get-backup-share [FLAGS] https://HOST:PORT|http://HOST:PORT PROJECT SHARE\n"+
			"Reads one backup share. The token is read from the variable "+tokenVariable+".\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 3 {
		flag.Usage()
		os.Exit(2)
	}
	// An empty value, such as that of an unset shell variable, must not mean the system's roots or no certificate.
	flag.Visit(func(each *flag.Flag) {
		if each.Value.String() == "" {
			fmt.Fprintf(os.Stderr, "--%s: has no value\n", each.Name)
			os.Exit(2)
		}
	})

	connection, token, err := prepare(flag.Arg(0), given)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	defer connection.Close()
	request := &vbsv2.GetBackupShareRequest{ProjectId: flag.Arg(1), Id: flag.Arg(2)}
	deadline := time.Duration(given.deadline * float64(time.Second))
	share, err := get(connection, request, token, deadline)
	if err != nil {
		fmt.Fprintln(os.Stderr, formatStatus(status.Convert(err)))
		os.Exit(1)
	}
	fmt.Println(formatShare(share))
}

// prepare checks everything that was given, before anything is sent. The connection is made when the first call is.
func prepare(address string, given options) (*grpc.ClientConn, string, error) {
	if !(given.deadline > 0 && given.deadline <= 86400) {
		return nil, "", errors.New("--deadline: must be more than 0 and at most 86400 seconds")
	}
	target, transport, err := parseTarget(address, given)
	if err != nil {
		return nil, "", err
	}
	token := os.Getenv(tokenVariable)
	isInvisible := func(char rune) bool { return char <= ' ' || char > '~' }
	if len(token) > maxTokenBytes || strings.ContainsFunc(token, isInvisible) {
		return nil, "", fmt.Errorf("%s: must be at most %d characters of visible ASCII", tokenVariable, maxTokenBytes)
	}
	connection, err := grpc.NewClient(target,
		grpc.WithTransportCredentials(transport),
		grpc.WithDefaultServiceConfig(serviceconfig.WithRetries),
		// Otherwise HTTPS_PROXY would send the call to a proxy.
		grpc.WithNoProxy())
	return connection, token, err
}

// parseTarget returns grpc-go's name of the gateway, and TLS where the address is https.
func parseTarget(address string, given options) (string, credentials.TransportCredentials, error) {
	form := errors.New("ADDRESS: must be https://HOST:PORT or http://HOST:PORT, and nothing else")
	if !strings.HasPrefix(address, "https://") && !strings.HasPrefix(address, "http://") {
		return "", nil, errors.New("ADDRESS: must begin with https:// or http://")
	}
	parsed, err := url.Parse(address)
	if err != nil || parsed.Hostname() == "" || strings.TrimSuffix(address, "/") != parsed.Scheme+"://"+parsed.Host {
		return "", nil, form
	}
	if port, err := strconv.ParseUint(parsed.Port(), 10, 16); err != nil || port == 0 {
		return "", nil, errors.New("ADDRESS: must end with a port, such as https://gateway.example:50051")
	}
	target := "dns:///" + parsed.Host
	if parsed.Scheme == "https" {
		config, err := tlsConfig(given)
		return target, credentials.NewTLS(config), err
	}
	if given.ca != "" || given.cert != "" || given.key != "" || given.serverName != "" {
		return "", nil, errors.New("--ca, --cert, --key and --server-name need an https ADDRESS")
	}
	isLoopback := parsed.Hostname() == "localhost" || net.ParseIP(parsed.Hostname()).IsLoopback()
	if !isLoopback && !given.allowPlaintext {
		return "", nil, errors.New(
			"ADDRESS: http sends the token and the share unencrypted: use https, or --allow-plaintext in a trusted network")
	}
	return target, insecure.NewCredentials(), nil
}

func tlsConfig(given options) (*tls.Config, error) {
	config := &tls.Config{ServerName: given.serverName}
	if given.ca != "" {
		pem, err := os.ReadFile(given.ca)
		if err != nil {
			return nil, unreadable("--ca", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--ca: %s holds no certificate", given.ca)
		}
	}
	if (given.cert == "") != (given.key == "") {
		return nil, errors.New("--cert and --key must be given together")
	}
	if given.cert != "" {
		cert, err := os.ReadFile(given.cert)
		if err != nil {
			return nil, unreadable("--cert", err)
		}
		key, err := os.ReadFile(given.key)
		if err != nil {
			return nil, unreadable("--key", err)
		}
		if _, err := tls.X509KeyPair(cert, key); err != nil {
			return nil, fmt.Errorf("--cert, --key: cannot be used (%w)", err)
		}
		// Read again for each connection, so that a program that runs for long uses a renewed certificate.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(given.cert, given.key)
			return &pair, err
		}
	}
	return config, nil
}

func unreadable(name string, err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return fmt.Errorf("%s: cannot read %s (%w)", name, path.Path, path.Err)
	}
	return fmt.Errorf("%s: %w", name, err)
}

func get(
	connection *grpc.ClientConn, request *vbsv2.GetBackupShareRequest, token string, deadline time.Duration,
) (*vbsv2.BackupShare, error) {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	// A gateway that holds the credentials itself needs no token.
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "x-auth-token", token)
	}
	response, err := vbsv2.NewBackupShareServiceClient(connection).GetBackupShare(ctx, request)
	if err != nil {
		return nil, err
	}
	if response.BackupShare == nil {
		return &vbsv2.BackupShare{}, nil
	}
	return response.BackupShare, nil
}

// formatShare shows what was read, one field a line. Scalars of a reply are pointers: nil is unset, while the getters
// return "", 0 or false for it. service_metadata is left out, because it can hold key material.
func formatShare(share *vbsv2.BackupShare) string {
	lines := []string{
		"id: " + quoted(share.Id),
		"from_project_id: " + quoted(share.FromProjectId),
		"to_project_id: " + quoted(share.ToProjectId),
		"created_at: " + formatTime(share.CreatedAt),
		"updated_at: " + formatTime(share.UpdatedAt),
	}
	if backup := share.Backup; backup != nil {
		lines = append(lines,
			"backup.id: "+quoted(backup.Id),
			"backup.name: "+quoted(backup.Name),
			"backup.description: "+quoted(backup.Description),
			"backup.status: "+quoted(backup.Status),
			"backup.size: "+orUnset(backup.Size),
			"backup.object_count: "+orUnset(backup.ObjectCount),
			"backup.is_incremental: "+orUnset(backup.IsIncremental),
			"backup.data_timestamp: "+formatTime(backup.DataTimestamp),
		)
	} else {
		lines = append(lines, "backup: unset")
	}
	return strings.Join(lines, "\n")
}

func quoted(text *string) string {
	if text == nil {
		return "unset"
	}
	return `"` + printable(*text) + `"`
}

func orUnset[T any](value *T) string {
	if value == nil {
		return "unset"
	}
	return fmt.Sprint(*value)
}

func formatTime(timestamp *timestamppb.Timestamp) string {
	if timestamp == nil {
		return "unset"
	}
	if !timestamp.IsValid() {
		return "invalid"
	}
	return strings.Trim(protojson.Format(timestamp), `"`)
}

// formatStatus shows a status and its details, one a line. Programs act on the code and the reason; the message is for people.
func formatStatus(failed *status.Status) string {
	lines := []string{codeName(failed.Code()), "message: " + failed.Message()}
	info := detail[*errdetails.ErrorInfo](failed)
	if info != nil {
		lines = append(lines, fmt.Sprintf("reason: %s (%s)", info.Reason, info.Domain))
		for _, key := range slices.Sorted(maps.Keys(info.Metadata)) {
			lines = append(lines, key+": "+info.Metadata[key])
		}
		if info.Reason == "TOKEN_MISSING" {
			lines = append(lines, "this gateway requires a token: set "+tokenVariable)
		}
	} else {
		lines = append(lines, "reason: none (the status is the client library's or a proxy's)")
	}
	for _, violation := range detail[*errdetails.BadRequest](failed).GetFieldViolations() {
		lines = append(lines, violation.Field+": "+violation.Description)
	}
	if retry := detail[*errdetails.RetryInfo](failed); retry.GetRetryDelay() != nil {
		lines = append(lines, fmt.Sprintf("retry after: %g s", retry.RetryDelay.AsDuration().Seconds()))
	}
	if request := detail[*errdetails.RequestInfo](failed); request != nil {
		lines = append(lines, "request ID: "+request.RequestId)
	}
	for index := range lines {
		lines[index] = printable(lines[index])
	}
	return strings.Join(lines, "\n  ")
}

// detail is the first detail of a type, or nil.
func detail[T any](failed *status.Status) T {
	var none T
	for _, each := range failed.Details() {
		if found, ok := each.(T); ok {
			return found
		}
	}
	return none
}

// codeName is the name of a code as gRPC spells it; grpc-go's own String() spells it NotFound.
func codeName(code codes.Code) string {
	names := [...]string{
		"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
		"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
		"INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
	}
	if int(code) < len(names) {
		return names[code]
	}
	return code.String()
}

// printable replaces control characters, which could rewrite what a terminal shows.
func printable(text string) string {
	return strings.Map(func(char rune) rune {
		if unicode.IsControl(char) {
			return '\uFFFD'
		}
		return char
	}, text)
}
