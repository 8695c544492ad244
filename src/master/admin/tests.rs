//! The pages over a pool that a test made up, through a socket.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::fake::Fake;
use super::*;
use crate::master::state::Totals;
use crate::master::view::Standing;

fn start() -> (Admin, Arc<Fake>) {
    start_as(Standing::default())
}

fn start_as(standing: Standing) -> (Admin, Arc<Fake>) {
    let totals = Totals { capacity: 1000, used: 5, keys: 2, ..Totals::default() };
    let fake = Arc::new(Fake { totals, standing, ..Fake::default() });
    let sources = Sources {
        view: Arc::clone(&fake) as Arc<dyn View>,
        file_capacity: None,
        extras: Arc::new(|| vec![("mooncake_master_test_total", "For this test", 7)]),
    };
    let pages = Pages { sources };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    (Admin::start(listener, pages).unwrap(), fake)
}

/// Status line, head and body of one request.
fn ask(admin: &Admin, method: &str, path: &str) -> (u16, String, Vec<u8>) {
    let mut stream = TcpStream::connect(admin.address()).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap().to_ascii_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head, answer[end + 4..].to_vec())
}

fn text(admin: &Admin, path: &str) -> (u16, String) {
    let (status, head, body) = ask(admin, "GET", path);
    assert!(head.contains("\r\ncontent-type: text/plain; version=0.0.4"), "{path}: {head}");
    (status, String::from_utf8_lossy(&body).into_owned())
}

fn value(admin: &Admin, method: &str, path: &str) -> (u16, serde_json::Value) {
    let (status, head, body) = ask(admin, method, path);
    assert!(head.contains("\r\ncontent-type: application/json"), "{path}: {head}");
    (status, serde_json::from_slice(&body).unwrap())
}

#[test]
fn bodies_of_upstream_0_3_7() {
    let (admin, fake) = start();
    let lines = "{\"size_\":5,\"buffer_address_\":140358356828160,\
                 \"transport_endpoint_\":\"127.0.0.1:15328\"}\n\
                 {\"size_\":6,\"buffer_address_\":7,\"transport_endpoint_\":\"127.0.0.1:15328\"}\n";
    for (path, status, body) in [
        ("/health", 200, "OK"),
        ("/get_all_keys", 200, "a/b\n\u{fffd}\n"),
        ("/get_all_segments", 200, "host:1\nhost:1\nb c\n"),
        ("/query_segment?segment=host:1", 200, "host:1\nUsed(bytes): 7\nCapacity(bytes) : 1000\n"),
        ("/query_segment?segment=b%20c", 200, "b c\nUsed(bytes): 0\nCapacity(bytes) : 500\n"),
        ("/query_segment?segment=x", 500, "Failed to query segment"),
        ("/query_segment", 500, "Failed to query segment"),
        ("/query_key?key=a/b", 200, lines),
        ("/query_key?key=a%2Fb", 200, lines),
        ("/query_key?key=half", 404, "REPLICA_IS_NOT_READY"),
        ("/query_key?key=none", 404, "OBJECT_NOT_FOUND"),
        ("/query_key", 404, "OBJECT_NOT_FOUND"),
    ] {
        assert_eq!(text(&admin, path), (status, body.to_owned()), "{path}");
    }
    assert_eq!(fake.leases.lock().len(), 2);
    let (status, summary) = text(&admin, "/metrics/summary");
    assert_eq!(status, 200);
    assert!(summary.starts_with("Mem Storage: 5 B / 1000 B (0.5%) | "), "{summary}");
    assert!(!summary.ends_with('\n'));
}

#[test]
fn a_standby_is_well_and_names_the_leader() {
    let leader = Some("10.0.0.5:50051".to_owned());
    let standing = Standing { elects: true, leads: false, state: "standby", leader };
    let (admin, fake) = start_as(standing);
    for (path, status, body) in [
        ("/health", 200, "OK"),
        ("/role", 200, "standby"),
        ("/ha_status", 200, "standby"),
        ("/get_all_keys", 503, "this master stands by; the leader is 10.0.0.5:50051\n"),
        ("/query_key?key=a/b", 503, "this master stands by; the leader is 10.0.0.5:50051\n"),
    ] {
        assert_eq!(text(&admin, path), (status, body.to_owned()), "{path}");
    }
    let (status, body) = value(&admin, "GET", "/leader");
    assert_eq!((status, &body["leader_address"]), (200, &"10.0.0.5:50051".into()));
    assert_eq!((&body["present"], &body["view_version"]), (&true.into(), &().into()));
    assert_eq!(ask(&admin, "POST", "/api/v1/remove_all").0, 503);
    assert!(fake.removals.lock().is_empty() && fake.leases.lock().is_empty());
    let (_, metrics) = text(&admin, "/metrics");
    assert!(metrics.contains("\nmooncake_master_leads 0\n"), "{metrics}");
    assert!(metrics.contains("\nmooncake_master_view_version 0\n"));
    // A lease that has just ended is not called serving.
    let late = Standing { elects: true, leads: false, state: "serving", leader: None };
    let (admin, _) = start_as(late);
    assert_eq!(text(&admin, "/ha_status").1, "standby");
    assert_eq!(text(&admin, "/get_all_keys").0, 503);
}

#[test]
fn an_unknown_path_or_method_is_404() {
    let (admin, _) = start();
    for (method, path) in [
        ("GET", "/nope"),
        ("POST", "/health"),
        ("PUT", "/query_key?key=a"),
        ("GET", "/api/v1/remove_all"),
    ] {
        let (status, head, body) = ask(&admin, method, path);
        assert_eq!(
            (status, body.as_slice()),
            (404, b"404 Not Found".as_slice()),
            "{method} {path}"
        );
        assert!(!head.contains("content-type"), "{head}");
    }
    assert_eq!(ask(&admin, "HEAD", "/health").0, 404);
}

#[test]
fn bodies_of_upstream_0_3_13() {
    let (admin, fake) = start();
    assert_eq!(text(&admin, "/role"), (200, "leader".to_owned()));
    assert_eq!(text(&admin, "/ha_status"), (200, "serving".to_owned()));
    let (_, leader) = value(&admin, "GET", "/leader");
    assert_eq!(leader["present"], false);
    let (status, body) = value(&admin, "GET", "/batch_query_keys?keys=a%2Fb,none");
    assert_eq!(status, 200);
    assert_eq!(body["data"]["a/b"]["values"][1]["size_"], 6);
    let file = serde_json::json!([{"file_path": "/x", "object_size": 11}]);
    assert_eq!(body["data"]["a/b"]["disk_values"], file);
    assert_eq!(body["data"]["none"]["error"], "OBJECT_NOT_FOUND");
    assert_eq!(value(&admin, "GET", "/batch_query_keys").0, 400);
    assert!(fake.leases.lock().is_empty());
    let (_, detail) = value(&admin, "GET", "/get_segments_detail");
    assert_eq!(detail["total_segments"], 3);
    assert_eq!(detail["segments"][0]["allocator_usage_percent"], 1.0);
    let (_, status) = value(&admin, "GET", "/api/v1/segments/status?segment=host:1");
    assert_eq!((&status["status_name"], &status["status"]), (&"OK".into(), &1.into()));
    assert_eq!(value(&admin, "GET", "/api/v1/segments/status").0, 400);
    let (_, removed) = value(&admin, "POST", "/api/v1/remove_all");
    assert_eq!(removed["removed_count"], 2);
    value(&admin, "POST", "/api/v1/remove_all?force=true");
    assert_eq!(*fake.removals.lock(), [false, true]);
}

#[test]
fn metrics_have_the_names_of_upstream() {
    let (admin, _) = start();
    let (status, page) = text(&admin, "/metrics");
    assert_eq!(status, 200);
    for line in [
        "# TYPE master_allocated_bytes gauge\nmaster_allocated_bytes 5\n",
        "master_total_capacity_bytes 1000\n",
        "master_key_count 2\n",
        "# TYPE master_get_replica_list_requests_total counter\n\
         master_get_replica_list_requests_total 0\n",
        "# TYPE master_evicted_key_count counter\nmaster_evicted_key_count 0\n",
        "# TYPE master_value_size_bytes histogram\n",
        "master_value_size_bytes_bucket{le=\"4096.000000\"} 0\n",
        "master_value_size_bytes_bucket{le=\"+Inf\"} 0\n",
        "master_value_size_bytes_sum 0",
        "segment_allocated_bytes{segment=\"host:1\"} 7\n",
        "mooncake_master_quarantine_bytes 0\n",
        "mooncake_master_test_total 7\n",
    ] {
        assert!(page.contains(line), "{line} in {page}");
    }
    let mut families: Vec<&str> = page.lines().filter(|line| line.starts_with("# TYPE")).collect();
    let count = families.len();
    families.sort_unstable();
    families.dedup();
    assert_eq!(families.len(), count, "a family is there twice");
}
