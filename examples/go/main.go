// Caller reads one backup share: `OS_TOKEN=… caller -address localhost:50051 PROJECT SHARE`.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/grpc/metadata"

	"example.com/caller/gateway"
	"example.com/caller/vbsv2"
)

func main() {
	options := gateway.Flags()
	flag.Parse()
	if flag.NArg() != 2 {
		log.Fatal("usage: caller [flags] PROJECT SHARE")
	}
	connection, err := options.Dial()
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "x-auth-token", os.Getenv("OS_TOKEN"))

	reply, err := vbsv2.NewBackupShareServiceClient(connection).GetBackupShare(ctx,
		&vbsv2.GetBackupShareRequest{ProjectId: flag.Arg(0), Id: flag.Arg(1)})
	if err != nil {
		log.Fatal(gateway.Describe(err))
	}
	backup := reply.GetBackupShare().GetBackup()
	size := "unknown"
	if backup != nil && backup.Size != nil {
		size = fmt.Sprint(*backup.Size)
	}
	fmt.Printf("%s: %s, %s GB\n", backup.GetName(), backup.GetStatus(), size)
}
