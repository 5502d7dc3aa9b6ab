"""Bad input, and the exact answer to it."""

import json
import socket
import unittest

import harness
from harness import SandboxCase

UNKNOWN = "/v1/sandboxes/sbx_aaaaaaaaaaaaaaaaaaaa"
JSON = {"Content-Type": "application/json"}
DEEP = "[" * 3000 + "]" * 3000

# method, target, body, headers, status, code, message
TABLE = [
    # Paths and methods.
    ("GET", "/", None, {}, 404, "not_found", "no such resource"),
    ("GET", "/v1", None, {}, 404, "not_found", "no such resource"),
    ("GET", "/v1/sandboxes/", None, {}, 400, "invalid_id",
     'a sandbox id is "sbx_" with lower-case letters and digits'),
    ("GET", "/v1/nothing", None, {}, 404, "not_found", "no such resource"),
    ("GET", "/v2/sandboxes", None, {}, 404, "not_found", "no such resource"),
    ("GET", "/v1/a/b/c/d/e/f/g", None, {}, 404, "not_found", "no such resource"),
    ("PUT", "/v1/sandboxes", None, {}, 405, "method_not_allowed",
     "PUT is not allowed here; allowed: GET, POST"),
    ("POST", UNKNOWN, None, {}, 405, "method_not_allowed",
     "POST is not allowed here; allowed: GET, DELETE"),
    ("GET", UNKNOWN + "/exec", None, {}, 405, "method_not_allowed",
     "GET is not allowed here; allowed: POST"),
    ("POST", UNKNOWN + "/files", None, {}, 405, "method_not_allowed",
     "POST is not allowed here; allowed: GET, PUT"),
    ("PATCH", "/v1/healthz", None, {}, 405, "method_not_allowed",
     "PATCH is not allowed here; allowed: GET"),
    ("GET", "/v1/health%7", None, {}, 400, "invalid_request",
     'the path has a "%" that two hex digits do not follow'),
    ("GET", "/v1/healthz%00", None, {}, 400, "invalid_request", "the path contains %00"),
    ("GET", "/v1%2fhealthz", None, {}, 400, "invalid_request",
     'a path segment contains an encoded "/"'),
    # Ids.
    ("GET", "/v1/sandboxes/1", None, {}, 400, "invalid_id",
     'a sandbox id is "sbx_" with lower-case letters and digits'),
    ("GET", "/v1/sandboxes/sbx_", None, {}, 400, "invalid_id",
     'a sandbox id is "sbx_" with lower-case letters and digits'),
    ("GET", "/v1/sandboxes/sbx_" + "a" * 100, None, {}, 400, "invalid_id",
     'a sandbox id is "sbx_" with lower-case letters and digits'),
    ("GET", "/v1/sandboxes/sbx_..%5c", None, {}, 400, "invalid_id",
     'a sandbox id is "sbx_" with lower-case letters and digits'),
    ("GET", UNKNOWN, None, {}, 404, "sandbox_not_found",
     'there is no sandbox "sbx_aaaaaaaaaaaaaaaaaaaa"'),
    ("DELETE", UNKNOWN, None, {}, 404, "sandbox_not_found",
     'there is no sandbox "sbx_aaaaaaaaaaaaaaaaaaaa"'),
    ("GET", UNKNOWN + "/console", None, {}, 404, "sandbox_not_found",
     'there is no sandbox "sbx_aaaaaaaaaaaaaaaaaaaa"'),
    ("POST", UNKNOWN + "/exec", '{"code":""}', JSON, 404, "sandbox_not_found",
     'there is no sandbox "sbx_aaaaaaaaaaaaaaaaaaaa"'),
    ("PUT", UNKNOWN + "/files?path=/x", b"data", {}, 404, "sandbox_not_found",
     'there is no sandbox "sbx_aaaaaaaaaaaaaaaaaaaa"'),
    ("GET", UNKNOWN + "/files?path=/x", None, {}, 404, "sandbox_not_found",
     'there is no sandbox "sbx_aaaaaaaaaaaaaaaaaaaa"'),
    ("GET", UNKNOWN + "/files/list?path=/x", None, {}, 404, "sandbox_not_found",
     'there is no sandbox "sbx_aaaaaaaaaaaaaaaaaaaa"'),
    # Query parameters.
    ("GET", "/v1/healthz?verbose=1", None, {}, 400, "unknown_parameter",
     'unknown query parameter "verbose"'),
    ("GET", UNKNOWN + "/files?path=/a&path=/b", None, {}, 400, "invalid_request",
     'query parameter "path" is given twice'),
    ("GET", UNKNOWN + "/files?path=%zz", None, {}, 400, "invalid_request",
     'the query has a "%" that two hex digits do not follow'),
    ("GET", UNKNOWN + "/files?path=/a%00b", None, {}, 400, "invalid_request",
     "the query contains %00"),
    ("GET", UNKNOWN + "/files", None, {}, 400, "missing_parameter",
     'the query parameter "path" is missing'),
    ("GET", UNKNOWN + "/files?path=", None, {}, 400, "missing_parameter",
     'the query parameter "path" is missing'),
    ("GET", UNKNOWN + "/files?path=relative", None, {}, 400, "invalid_path",
     '"path" must be absolute, that is start with "/"'),
    ("GET", UNKNOWN + "/files?path=/" + "a" * 4095, None, {}, 400, "invalid_path",
     '"path" is longer than 4095 bytes'),
    ("PUT", UNKNOWN + "/files?path=/a&mode=rw", b"", {}, 400, "invalid_parameter",
     '"mode" must be octal permission bits, 1 to 7777, for example 0644'),
    ("PUT", UNKNOWN + "/files?path=/a&mode=10000", b"", {}, 400, "invalid_parameter",
     '"mode" must be octal permission bits, 1 to 7777, for example 0644'),
    ("PUT", UNKNOWN + "/files?path=/a&mode=0", b"", {}, 400, "invalid_parameter",
     '"mode" must be octal permission bits, 1 to 7777, for example 0644'),
    ("POST", UNKNOWN + "/exec?stream=maybe", '{"code":""}', JSON, 400, "invalid_parameter",
     '"stream" must be "true" or "false"'),
    ("GET", "/v1/healthz?" + "&".join(f"p{i}=" for i in range(20)), None, {}, 400,
     "invalid_request", "more than 8 query parameters"),
    # Sizes.
    ("GET", "/v1/healthz?" + "a" * 20000, None, {}, 414, "uri_too_long",
     "the request target is longer than 16384 bytes"),
    ("GET", "/v1/healthz", None, {"X-Long": "a" * 20000}, 431, "headers_too_large",
     "the header fields exceed 16384 bytes or 64 fields"),
    ("GET", "/v1/healthz", None, {f"X-{i}": "1" for i in range(100)}, 431, "headers_too_large",
     "the header fields exceed 16384 bytes or 64 fields"),
    ("POST", "/v1/sandboxes", " " * 70000, JSON, 413, "body_too_large",
     "the body is larger than 65536 bytes"),
    ("POST", UNKNOWN + "/exec", " " * (25 * 1024 * 1024), JSON, 413, "body_too_large",
     "the body is larger than 25169920 bytes"),
    # Bodies.
    ("POST", "/v1/sandboxes", "{}", {"Content-Type": "text/plain"}, 415, "unsupported_media_type",
     'the body must be application/json, not "text/plain"'),
    ("POST", "/v1/sandboxes", "{}", {"Content-Type": "application/jsonx"}, 415,
     "unsupported_media_type", 'the body must be application/json, not "application/jsonx"'),
    ("PUT", UNKNOWN + "/files?path=/a", b"", {"Content-Type": "multipart/form-data; boundary=x"},
     415, "unsupported_media_type",
     "send the file's bytes as the body, not as multipart/form-data; boundary=x"),
    ("DELETE", UNKNOWN, "{}", JSON, 400, "unexpected_body", "this request takes no body"),
    ("POST", "/v1/sandboxes", "{", JSON, 400, "invalid_json",
     "the body is not valid JSON: line 1, column 1: string or '}' expected near end of file"),
    ("POST", "/v1/sandboxes", "{} x", JSON, 400, "invalid_json",
     "the body is not valid JSON: line 1, column 4: end of file expected near 'x'"),
    ("POST", "/v1/sandboxes", b"\xff\xfe", JSON, 400, "invalid_json",
     "the body is not valid JSON: line 1, column 0: unable to decode byte 0xff"),
    ("POST", "/v1/sandboxes", '{"plain":true,"plain":false}', JSON, 400, "invalid_json",
     'the body is not valid JSON: line 1, column 21: duplicate object key near \'"plain"\''),
    ("POST", "/v1/sandboxes", DEEP, JSON, 400, "invalid_json",
     "the body is not valid JSON: line 1, column 2049: maximum parsing depth reached near '['"),
    ("POST", "/v1/sandboxes", "[]", JSON, 400, "invalid_request",
     "the body must be a JSON object"),
    ("POST", "/v1/sandboxes", '"text"', JSON, 400, "invalid_json",
     "the body is not valid JSON: line 1, column 6: '[' or '{' expected near '\"text\"'"),
    ("POST", "/v1/sandboxes", '{"memory":64}', JSON, 400, "unknown_field",
     'unknown field "memory"'),
    ("POST", "/v1/sandboxes", '{"template":3}', JSON, 400, "invalid_request",
     '"template" must be a string'),
    ("POST", "/v1/sandboxes", '{"template":null}', JSON, 400, "invalid_request",
     '"template" must be a string'),
    ("POST", "/v1/sandboxes", '{"template":""}', JSON, 400, "invalid_request",
     '"template" must be 1 to 64 bytes long'),
    ("POST", "/v1/sandboxes", '{"template":"../etc"}', JSON, 400, "invalid_request",
     '"template" has lower-case letters, digits, ".", "_" and "-" and starts with a letter or '
     "digit"),
    ("POST", "/v1/sandboxes", '{"template":"a\\u0000b"}', JSON, 400, "invalid_request",
     '"template" must not contain U+0000'),
    ("POST", "/v1/sandboxes", '{"memory_mb":"512"}', JSON, 400, "invalid_request",
     '"memory_mb" must be an integer'),
    ("POST", "/v1/sandboxes", '{"memory_mb":512.5}', JSON, 400, "invalid_request",
     '"memory_mb" must be an integer'),
    ("POST", "/v1/sandboxes", '{"memory_mb":0}', JSON, 400, "invalid_request",
     '"memory_mb" must be between 1 and 1048576'),
    ("POST", "/v1/sandboxes", '{"memory_mb":-1}', JSON, 400, "invalid_request",
     '"memory_mb" must be between 1 and 1048576'),
    ("POST", "/v1/sandboxes", '{"isolation":"none"}', JSON, 400, "invalid_request",
     '"isolation" must be "full" or "fast"'),
    ("POST", "/v1/sandboxes", '{"plain":1}', JSON, 400, "invalid_request",
     '"plain" must be true or false'),
    ("POST", "/v1/sandboxes", '{"metadata":[]}', JSON, 400, "invalid_request",
     '"metadata" must be an object'),
    ("POST", "/v1/sandboxes", '{"metadata":{"a":1}}', JSON, 400, "invalid_request",
     '"metadata" maps names of 1 to 64 bytes to strings of at most 512 bytes without NUL; "a" '
     "does not"),
    ("POST", "/v1/sandboxes", json.dumps({"metadata": {"": "x"}}), JSON, 400, "invalid_request",
     '"metadata" maps names of 1 to 64 bytes to strings of at most 512 bytes without NUL; "" '
     "does not"),
    ("POST", "/v1/sandboxes", json.dumps({"metadata": {"k": "v" * 513}}), JSON, 400,
     "invalid_request",
     '"metadata" maps names of 1 to 64 bytes to strings of at most 512 bytes without NUL; "k" '
     "does not"),
    ("POST", "/v1/sandboxes", json.dumps({"metadata": {str(i): "" for i in range(17)}}), JSON, 400,
     "invalid_request", '"metadata" has more than 16 entries'),
    ("POST", "/v1/sandboxes", '{"template":"no-such"}', JSON, 404, "template_not_found", None),
    ("POST", "/v1/sandboxes", '{"memory_mb":2}', JSON, 400, "invalid_request", None),
    ("POST", "/v1/sandboxes", '{"memory_mb":65}', JSON, 400, "invalid_request", None),
    ("POST", "/v1/sandboxes", '{"memory_mb":1048576}', JSON, 400, "invalid_request", None),
]

# The same for exec, which checks its body before it looks for the sandbox.
EXEC_TABLE = [
    ("", "missing_field", '"code" is missing'),
    ("{}", "missing_field", '"code" is missing'),
    ('{"code":1}', "invalid_request", '"code" must be a string'),
    ('{"code":null}', "invalid_request", '"code" must be a string'),
    ('{"code":"1","lang":"x"}', "unknown_field", 'unknown field "lang"'),
    ('{"code":"1","timeout_ms":0}', "invalid_request",
     '"timeout_ms" must be between 1 and 86400000'),
    ('{"code":"1","timeout_ms":-5}', "invalid_request",
     '"timeout_ms" must be between 1 and 86400000'),
    ('{"code":"1","timeout_ms":86400001}', "invalid_request",
     '"timeout_ms" must be between 1 and 86400000'),
    ('{"code":"1","timeout_ms":1.5}', "invalid_request", '"timeout_ms" must be an integer'),
    ('{"code":"1","timeout_ms":true}', "invalid_request", '"timeout_ms" must be an integer'),
    ('{"code":"1","timeout_ms":99999999999999999999}', "invalid_json",
     "the body is not valid JSON: line 1, column 45: too big integer near "
     "'99999999999999999999'"),
    ('{"code":"1","output_limit":0}', "invalid_request",
     '"output_limit" must be between 1 and 67108864'),
    ('{"code":"\\ud800"}', "invalid_json",
     "the body is not valid JSON: line 1, column 16: invalid Unicode '\\uD800' near "
     "'\"\\ud800\"'"),
]


@harness.needs_root
class ErrorTableTest(unittest.TestCase):
    def setUp(self):
        self.api = harness.shared_daemon().api()

    def test_every_row_of_the_table(self):
        for method, target, body, headers, status, code, message in TABLE:
            with self.subTest(request=f"{method} {target[:60]} {str(body)[:60]}"):
                reply = self.api.request(method, target, body, headers)
                self.assertEqual((reply.status, reply.error), (status, code), reply.body)
                if message is not None:
                    self.assertEqual(reply.message, message)
                self.assertTrue(reply.message)

    def test_head_is_refused_without_a_body(self):
        reply = self.api.request("HEAD", "/v1/healthz")
        self.assertEqual((reply.status, reply.headers["Allow"], reply.body), (405, "GET", b""))

    def test_refused_creates_leave_nothing(self):
        self.assertEqual(self.api.get("/v1/sandboxes").json["sandboxes"], [])

    def test_garbage_instead_of_http_is_refused(self):
        for garbage in (b"\1\2 /v1/healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
                        b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
                        b"POST /v1/sandboxes HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
                        b"POST /v1/sandboxes HTTP/1.1\r\nHost: x\r\nContent-Length: zz\r\n\r\n",
                        b"POST /v1/sandboxes HTTP/1.1\r\nHost: x\r\n"
                        b"Transfer-Encoding: chunked\r\n\r\nnothex\r\n"):
            with self.subTest(garbage=garbage), socket.socket(socket.AF_UNIX) as client:
                client.settimeout(harness.DEADLINE)
                client.connect(self.api.path)
                client.sendall(garbage)
                client.shutdown(socket.SHUT_WR)
                reply = b""
                while data := client.recv(65536):
                    reply += data
                self.assertNotIn(b" 200 ", reply[:20])
        self.assertEqual(self.api.get("/v1/healthz").status, 200)

    def test_one_connection_serves_many_requests(self):
        connection = harness.UnixConnection(self.api.path)
        connection.connect()
        first = connection.sock
        for i in range(50):
            connection.request("GET", "/v1/healthz" if i % 2 else "/v1/nothing")
            reply = connection.getresponse()
            reply.read()
            self.assertEqual(reply.status, 200 if i % 2 else 404)
            self.assertIs(connection.sock, first)
        connection.close()


class ExecErrorTest(SandboxCase):
    def test_every_row_of_the_table(self):
        for body, code, message in EXEC_TABLE:
            with self.subTest(body=body):
                reply = self.api.post(f"{self.base}/exec", body)
                self.assertEqual((reply.status, reply.error, reply.message), (400, code, message))

    def test_unknown_language(self):
        reply = self.api.post(f"{self.base}/exec", {"code": "1", "language": "ruby"})
        self.assertEqual((reply.status, reply.error, reply.message),
                         (400, "invalid_request", '"language" must be "python" or "bash"'))


if __name__ == "__main__":
    unittest.main(verbosity=2)
