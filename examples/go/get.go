// Asks for a page over a ZeroTier network: joins it, dials, and speaks HTTP over the byte stream, which here is a net.Conn
// and so fits into net/http. Made from the proto alone; README.md has the commands.
//
//	get NWID IP PORT [PATH]
//
// ZTNODE_ADDRESS: the node's control address, unix:PATH or tcp://HOST:PORT. ZTNODE_TOKEN: what a TCP address wants.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "example.org/get/ztnode/v1"
)

const (
	wait  = 60 * time.Second
	chunk = 256 << 10 // of a message, which may have 1 MiB
)

// A conn is a TCP connection of the overlay.
type conn struct {
	stream        pb.NodeService_StreamClient
	cancel        context.CancelFunc
	local, remote net.Addr
	rest          []byte
}

func dial(ctx context.Context, node pb.NodeServiceClient, ip string, port uint32) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := node.Stream(ctx)
	if err == nil {
		request := &pb.DialRequest{Ip: ip, Port: port}
		err = stream.Send(&pb.StreamRequest{Message: &pb.StreamRequest_Dial{Dial: request}})
	}
	var answer *pb.StreamResponse
	if err == nil {
		answer, err = stream.Recv() // refused, unreachable and the like are said here
	}
	if err != nil {
		cancel()
		return nil, err
	}
	opened := answer.GetOpened()
	return &conn{stream: stream, cancel: cancel, local: addr(opened.GetLocal()), remote: addr(opened.GetRemote())}, nil
}

func addr(end *pb.Endpoint) net.Addr {
	return &net.TCPAddr{IP: net.ParseIP(end.GetIp()), Port: int(end.GetPort())}
}

func (c *conn) Read(into []byte) (int, error) {
	for len(c.rest) == 0 {
		answer, err := c.stream.Recv()
		if err != nil {
			return 0, err
		}
		if answer.GetHalfClose() != nil {
			return 0, io.EOF
		}
		c.rest = answer.GetData()
	}
	n := copy(into, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *conn) Write(data []byte) (int, error) {
	for at := 0; at < len(data); at += chunk {
		end := at + chunk
		if end > len(data) {
			end = len(data)
		}
		message := &pb.StreamRequest_Data{Data: data[at:end]}
		if err := c.stream.Send(&pb.StreamRequest{Message: message}); err != nil {
			return at, err
		}
	}
	return len(data), nil
}

func (c *conn) CloseWrite() error {
	return c.stream.Send(&pb.StreamRequest{Message: &pb.StreamRequest_HalfClose{HalfClose: &pb.HalfClose{}}})
}

func (c *conn) Close() error                     { c.cancel(); return nil }
func (c *conn) LocalAddr() net.Addr              { return c.local }
func (c *conn) RemoteAddr() net.Addr             { return c.remote }
func (c *conn) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (c *conn) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (c *conn) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

// Joins, and waits until the network can be used.
func join(ctx context.Context, node pb.NodeServiceClient, nwid string) error {
	if _, err := node.Join(ctx, &pb.JoinRequest{NetworkId: nwid}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	changes, err := node.WatchNetworks(ctx, &pb.WatchNetworksRequest{NetworkId: nwid})
	if err != nil {
		return err
	}
	for {
		change, err := changes.Recv()
		if err != nil {
			return err
		}
		network := change.GetNetwork()
		if network.GetState() == pb.NetworkState_NETWORK_STATE_OK && len(network.GetAddresses()) > 0 {
			return nil
		}
		fmt.Fprintln(os.Stderr, network.GetDetail())
	}
}

func run(nwid, ip, port, path string) error {
	address := os.Getenv("ZTNODE_ADDRESS")
	if address == "" {
		return errors.New("ZTNODE_ADDRESS is not set: ztnode status shows it as control")
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return err
	}
	// The socket is private, and a tcp:// address is in clear. Older versions of grpc, too, have this option.
	channel, err := grpc.Dial(strings.TrimPrefix(address, "tcp://"), grpc.WithInsecure())
	if err != nil {
		return err
	}
	defer channel.Close()
	ctx := context.Background()
	if token := os.Getenv("ZTNODE_TOKEN"); token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	node := pb.NewNodeServiceClient(channel)
	if err := join(ctx, node, nwid); err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return dial(ctx, node, ip, uint32(number))
		},
	}}
	response, err := client.Get("http://" + net.JoinHostPort(ip, port) + path)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	size, err := io.Copy(io.Discard, response.Body)
	if err == nil {
		fmt.Println(response.StatusCode, size, "bytes")
	}
	return err
}

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "usage: get NWID IP PORT [PATH]")
		os.Exit(2)
	}
	path := "/"
	if len(os.Args) > 4 {
		path = os.Args[4]
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3], path); err != nil {
		text := err.Error()
		var said interface{ GRPCStatus() *status.Status }
		if errors.As(err, &said) {
			text = said.GRPCStatus().Message()
		}
		fmt.Fprintln(os.Stderr, "get:", text)
		os.Exit(1)
	}
}
