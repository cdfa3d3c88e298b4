// A client of ztnode.v1 in another language: status, a whole byte stream, a refused and a reset one.
// node other_language.mjs ADDRESS PROTO_DIRECTORY; prints one line of JSON.
import crypto from "node:crypto";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const [address, protoDirectory] = process.argv.slice(2);
const definition = loader.loadSync("ztnode/v1/node.proto", { includeDirs: [protoDirectory], keepCase: true });
const { NodeService } = grpc.loadPackageDefinition(definition).ztnode.v1;
const client = new NodeService(address, grpc.credentials.createInsecure());

const status = () => new Promise((resolve, reject) =>
  client.Status({}, (error, answer) => (error ? reject(error) : resolve(answer))));

function stream(ip, port, chunks) {
  return new Promise((resolve) => {
    const call = client.Stream();
    const received = crypto.createHash("sha256");
    const result = { opened: null, bytes: 0, halfClosed: false };
    const finish = (code, errno) => resolve({ ...result, code, errno, sha256: received.digest("hex") });
    call.on("data", (message) => {
      if (message.opened) result.opened = message.opened;
      else if (message.half_close) result.halfClosed = true;
      else {
        received.update(message.data);
        result.bytes += message.data.length;
      }
    });
    call.on("status", (end) => finish(end.code, end.metadata.get("ztnode-errno")[0] ?? null));
    call.on("error", () => {}); // the status above has said it all
    (async () => {
      call.write({ dial: { ip, port } });
      for (const chunk of chunks) {
        // False means that the connection's peer reads more slowly than we write.
        if (!call.write({ data: chunk })) await new Promise((drained) => call.once("drain", drained));
      }
      call.write({ half_close: {} });
      call.end();
    })();
  });
}

const chunks = Array.from({ length: 32 }, () => crypto.randomBytes(65536));
const sent = crypto.createHash("sha256");
chunks.forEach((chunk) => sent.update(chunk));
const result = {
  status: await status(),
  sent: sent.digest("hex"),
  echoed: await stream("10.121.15.99", 7, chunks),
  refused: await stream("10.121.15.99", 1, []),
  reset: await stream("10.121.15.99", 8, [Buffer.from("!")]),
};
console.log(JSON.stringify(result));
client.close();
