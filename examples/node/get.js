// Asks for a page over a ZeroTier network: joins it, dials, and speaks HTTP over the byte stream. Made from the proto
// alone, which is read when it starts.
//
//   node get.js NWID IP PORT [PATH]
//
// ZTNODE_ADDRESS: the node's control address, unix:PATH or tcp://HOST:PORT. ZTNODE_TOKEN: what a TCP address wants.
import { readFileSync } from "node:fs";
import { Duplex } from "node:stream";
import { fileURLToPath } from "node:url";
import http from "node:http";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const PROTO = fileURLToPath(new URL("../../proto", import.meta.url));
const WAIT_SECONDS = 60;
const CHUNK = 256 * 1024; // of a message, which may have 1 MiB

const definition = loader.loadSync("ztnode/v1/node.proto", { includeDirs: [PROTO], keepCase: true, enums: String });
const { NodeService } = grpc.loadPackageDefinition(definition).ztnode.v1;

function connect() {
  const address = process.env.ZTNODE_ADDRESS;
  if (!address) throw new Error("ZTNODE_ADDRESS is not set: ztnode status shows it as control");
  const target = address.startsWith("tcp://") ? address.slice("tcp://".length) : address;
  const metadata = new grpc.Metadata();
  const token = process.env.ZTNODE_TOKEN ?? tokenFile();
  if (token) metadata.set("authorization", `Bearer ${token}`);
  return [new NodeService(target, grpc.credentials.createInsecure()), metadata];
}

function tokenFile() {
  const path = process.env.ZTNODE_TOKEN_FILE;
  return path ? readFileSync(path, "utf8").trim() : undefined;
}

/** Joins, and waits until the network can be used. */
async function join(node, metadata, nwid) {
  await new Promise((resolve, reject) =>
    node.Join({ network_id: nwid }, metadata, (error) => (error ? reject(error) : resolve())),
  );
  const call = node.WatchNetworks({ network_id: nwid }, metadata, { deadline: Date.now() + WAIT_SECONDS * 1000 });
  try {
    for await (const { network } of call) {
      if (network.state === "NETWORK_STATE_OK" && network.addresses.length) return network;
      console.error(network.detail || network.state);
    }
  } finally {
    call.cancel();
  }
  throw new Error(`${nwid}: the node ended the watch`);
}

/** A TCP connection of the overlay as a stream of Node's, which takes the place of a net.Socket. */
class Connection extends Duplex {
  constructor(call) {
    super({ allowHalfOpen: true });
    this.call = call;
    call.on("data", (response) => {
      if (response.data?.length) this.push(response.data) || call.pause();
      else if (response.half_close) this.push(null);
    });
    call.on("error", (error) => this.destroy(error));
    call.on("end", () => this.push(null));
  }

  _read() {
    this.call.resume();
  }

  _write(data, _encoding, done) {
    for (let at = 0; at < data.length; at += CHUNK) {
      const last = at + CHUNK >= data.length;
      this.call.write({ data: data.subarray(at, at + CHUNK) }, last ? done : undefined);
    }
  }

  _final(done) {
    this.call.write({ half_close: {} }, done);
  }

  _destroy(error, done) {
    this.call.cancel();
    done(error);
  }

  setTimeout() {}
  setNoDelay() {}
  setKeepAlive() {}
  ref() {}
  unref() {}
}

/** Dials; rejects with what the overlay says, such as ECONNREFUSED. */
function dial(node, metadata, ip, port) {
  return new Promise((resolve, reject) => {
    const call = node.Stream(metadata);
    call.once("error", reject);
    call.once("data", () => {
      call.off("error", reject);
      resolve(new Connection(call));
    });
    call.write({ dial: { ip, port } });
  });
}

function get(connection, host, path) {
  return new Promise((resolve, reject) => {
    const options = { path, headers: { host }, createConnection: () => connection };
    const request = http.get(options, async (response) => {
      let bytes = 0;
      for await (const piece of response) bytes += piece.length;
      resolve([response.statusCode, bytes]);
    });
    request.on("error", reject);
  });
}

const [nwid, ip, port, path = "/"] = process.argv.slice(2);
if (!port) {
  console.error("usage: node get.js NWID IP PORT [PATH]");
  process.exit(2);
}
const [node, metadata] = connect();
try {
  await join(node, metadata, nwid);
  const connection = await dial(node, metadata, ip, Number(port));
  try {
    const [status, bytes] = await get(connection, `${ip}:${port}`, path);
    console.log(`${status} ${bytes} bytes`);
  } finally {
    connection.destroy();
  }
} catch (error) {
  console.error(`get.js: ${error.details ?? error.message}`);
  process.exitCode = 1;
} finally {
  node.close();
}
