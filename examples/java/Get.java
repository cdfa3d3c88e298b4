// Asks for a page over a ZeroTier network: joins it, dials, and speaks HTTP over the byte stream. Made from the proto
// alone; README.md has the commands.
//
//   java Get NWID IP PORT [PATH]
//
// ZTNODE_ADDRESS: the node's control address, tcp://HOST:PORT (ztnode serve --listen). ZTNODE_TOKEN: the token that this
// wants.

import com.google.protobuf.ByteString;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.stub.MetadataUtils;
import io.grpc.stub.StreamObserver;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.Iterator;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import ztnode.v1.Node.DialRequest;
import ztnode.v1.Node.JoinRequest;
import ztnode.v1.Node.Network;
import ztnode.v1.Node.NetworkState;
import ztnode.v1.Node.StreamRequest;
import ztnode.v1.Node.StreamResponse;
import ztnode.v1.Node.WatchNetworksRequest;
import ztnode.v1.Node.WatchNetworksResponse;
import ztnode.v1.NodeServiceGrpc;

public final class Get {
  private static final int WAIT_SECONDS = 60;

  /** A TCP connection of the overlay. */
  private static final class Connection implements StreamObserver<StreamResponse> {
    private static final StreamResponse END = StreamResponse.getDefaultInstance();
    // What arrives; gRPC's own flow control would bound it for who reads more than a page.
    private final BlockingQueue<StreamResponse> arrived = new LinkedBlockingQueue<>();
    private final StreamObserver<StreamRequest> requests;
    private volatile Throwable failure;

    Connection(NodeServiceGrpc.NodeServiceStub node, String ip, int port) throws Exception {
      requests = node.stream(this);
      requests.onNext(StreamRequest.newBuilder().setDial(DialRequest.newBuilder().setIp(ip).setPort(port)).build());
      next(); // opened
    }

    void write(byte[] data) {
      requests.onNext(StreamRequest.newBuilder().setData(ByteString.copyFrom(data)).build());
    }

    /** The next bytes; null at the end. */
    ByteString read() throws Exception {
      StreamResponse response = next();
      return response.hasData() ? response.getData() : null;
    }

    void close() {
      requests.onCompleted();
    }

    private StreamResponse next() throws Exception {
      StreamResponse response = arrived.take();
      if (response == END && failure != null) {
        throw new IOException(Status.fromThrowable(failure).getDescription());
      }
      return response;
    }

    @Override
    public void onNext(StreamResponse response) {
      arrived.add(response);
    }

    @Override
    public void onError(Throwable error) {
      failure = error;
      arrived.add(END);
    }

    @Override
    public void onCompleted() {
      arrived.add(END);
    }
  }

  /** Joins, and waits until the network can be used. */
  private static void join(NodeServiceGrpc.NodeServiceBlockingStub node, String nwid) throws IOException {
    node.join(JoinRequest.newBuilder().setNetworkId(nwid).build());
    Iterator<WatchNetworksResponse> changes =
        node.withDeadlineAfter(WAIT_SECONDS, TimeUnit.SECONDS)
            .watchNetworks(WatchNetworksRequest.newBuilder().setNetworkId(nwid).build());
    while (changes.hasNext()) {
      Network network = changes.next().getNetwork();
      if (network.getState() == NetworkState.NETWORK_STATE_OK && network.getAddressesCount() > 0) {
        return;
      }
      System.err.println(network.getDetail());
    }
    throw new IOException(nwid + ": the node ended the watch");
  }

  private static void run(String nwid, String ip, int port, String path) throws Exception {
    String address = System.getenv("ZTNODE_ADDRESS");
    if (address == null || !address.startsWith("tcp://")) {
      throw new IOException("ZTNODE_ADDRESS is not of the form tcp://HOST:PORT: ztnode serve --listen makes such a one");
    }
    Metadata metadata = new Metadata();
    String token = System.getenv("ZTNODE_TOKEN");
    if (token != null) {
      metadata.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + token);
    }
    ManagedChannel channel =
        ManagedChannelBuilder.forTarget(address.substring("tcp://".length()))
            .usePlaintext()
            .intercept(MetadataUtils.newAttachHeadersInterceptor(metadata))
            .build();
    try {
      join(NodeServiceGrpc.newBlockingStub(channel), nwid);
      Connection connection = new Connection(NodeServiceGrpc.newStub(channel), ip, port);
      String request = "GET " + path + " HTTP/1.0\r\nHost: " + ip + ":" + port + "\r\n\r\n";
      connection.write(request.getBytes(StandardCharsets.US_ASCII));
      ByteArrayOutputStream page = new ByteArrayOutputStream();
      for (ByteString piece = connection.read(); piece != null; piece = connection.read()) {
        piece.writeTo(page);
      }
      connection.close();
      String text = page.toString(StandardCharsets.ISO_8859_1);
      int body = text.indexOf("\r\n\r\n") + 4;
      System.out.println(text.split(" ", 3)[1] + " " + (text.length() - body) + " bytes");
    } finally {
      channel.shutdownNow();
    }
  }

  public static void main(String[] arguments) {
    if (arguments.length < 3) {
      System.err.println("usage: java Get NWID IP PORT [PATH]");
      System.exit(2);
    }
    try {
      run(arguments[0], arguments[1], Integer.parseInt(arguments[2]), arguments.length > 3 ? arguments[3] : "/");
    } catch (Exception error) {
      System.err.println("Get: " + error.getMessage());
      System.exit(1);
    }
  }
}
