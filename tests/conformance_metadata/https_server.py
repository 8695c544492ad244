"""An HTTP metadata service behind TLS, for tests: `https_server.py PORT CERTIFICATE KEY [CLIENT_CA]`.

Answers as upstream's servers do, from memory, on 127.0.0.1. With CLIENT_CA only clients that show a
certificate of that authority are served. There is no such server upstream: deployments put a proxy
with TLS in front.
"""

import http.server
import ssl
import sys
import urllib.parse


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body in one piece; two small ones would wait for an acknowledgement in between.
    wbufsize = -1
    documents = {}

    def key(self):
        return urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)["key"][0]

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        document = self.documents.get(self.key())
        self.answer(*((404, b"metadata not found") if document is None else (200, document)))

    def do_PUT(self):
        document = self.rfile.read(int(self.headers["Content-Length"]))
        key = self.key()
        if "rpc_meta" in key and key in self.documents:
            return self.answer(400, b"Duplicate rpc_meta key not allowed")
        self.documents[key] = document
        return self.answer(200, b"metadata updated")

    def do_DELETE(self):
        found = self.documents.pop(self.key(), None)
        self.answer(404 if found is None else 200, b"done")

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    def __init__(self, port, context):
        super().__init__(("127.0.0.1", port), Handler)
        self.context = context

    def finish_request(self, request, client_address):
        # On the thread of the connection: a client that is silent or refused holds nobody up.
        request.settimeout(30)
        with self.context.wrap_socket(request, server_side=True) as session:
            super().finish_request(session, client_address)

    def handle_error(self, *_):
        pass


def main(port, certificate, key, client_ca=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    Server(int(port), context).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
