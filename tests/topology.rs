//! The topology over captured trees of sysfs, against the matrices that upstream's own code gave
//! for the same trees (`tests/vectors/topology/`), and over trees that no kernel would make.
#![allow(clippy::unwrap_used, clippy::expect_used)] // A failed test is a panic.

#[path = "common/sysfs_tree.rs"]
mod sysfs_tree;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use mooncake::config::EngineConfig;
use mooncake::engine::{Access, BufferSpec, Engine};
use mooncake::error::ErrorKind;
use mooncake::topology::{discover, with_matrix, Matrix, Origin, Request, Topology};
use serde_json::{json, Value};
use sysfs_tree::SysfsTree;

fn found(name: &str) -> Topology {
    discover(SysfsTree::fixture(name).root(), &Request::default())
}

fn vector(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/topology");
    fs::read_to_string(folder.join(format!("{name}.txt"))).unwrap()
}

/// The matrix without accelerators, which upstream's newer wheel is built without.
fn of_nodes(matrix: &Matrix) -> Value {
    let Value::Object(mut locations) = matrix.to_json() else { panic!("{matrix:?}") };
    locations.retain(|location, _| location.starts_with("cpu:"));
    Value::Object(locations)
}

/// Preferred and other adapters of a location, each joined by a space.
fn lists(topology: &Topology, location: &str) -> (String, String) {
    let preference = topology.matrix.get(location).unwrap_or_else(|| panic!("{location}"));
    (preference.preferred.join(" "), preference.others.join(" "))
}

#[test]
fn matrices_are_those_of_upstream() {
    for name in ["h800-8gpu-8nic", "ascend910b-8npu", "laptop", "vm-without-nic"] {
        let expected: Value =
            serde_json::from_str(&vector(&format!("{name}-v0.3.13.post1"))).unwrap();
        assert_eq!(of_nodes(&found(name).matrix), expected, "{name}");
    }
    // With GPUs, and to the byte.
    for name in ["h800-8gpu-8nic", "laptop", "vm-without-nic"] {
        let expected = vector(&format!("{name}-v0.3.7.post2"));
        // Its program adds a line end to that of the matrix.
        assert_eq!(found(name).matrix.to_text() + "\n", expected, "{name}");
    }
}

#[test]
fn a_sub_function_is_where_its_function_is() {
    // Upstream does not find the node of `mlx5_4`, which has a folder between it and the function.
    let topology = found("aarch64-4node");
    let mut expected: Value = serde_json::from_str(&vector("aarch64-4node-v0.3.13.post1")).unwrap();
    assert_eq!(
        expected["cpu:2"],
        json!([["mlx5_3"], ["mlx5_0", "mlx5_2", "mlx5_4", "mlx5_10", "rxe0"]])
    );
    expected["cpu:2"] = json!([["mlx5_3", "mlx5_4"], ["mlx5_0", "mlx5_2", "mlx5_10", "rxe0"]]);
    assert_eq!(topology.matrix.to_json(), expected);
}

#[test]
fn eight_gpus_each_with_its_adapter() {
    let topology = found("h800-8gpu-8nic");
    let host = &topology.host;
    assert_eq!((host.nodes.len(), host.adapters.len(), host.accelerators.len()), (2, 8, 8));
    assert_eq!(host.nodes[1].cpus.as_ref().unwrap().to_string(), "48-95,144-191");
    assert_eq!(host.nodes[0].distances, [10, 21]);
    let gpu = &host.accelerators[5];
    assert_eq!((gpu.location.as_str(), gpu.pci().to_string()), ("cuda:5", "0000:bd:00.0".into()));
    assert_eq!(host.distance(gpu, &host.adapters[5]), Some(4));
    assert_eq!(host.distance(gpu, &host.adapters[4]), Some(10));
    assert_eq!(lists(&topology, "cuda:5").0, "mlx5_5");
    let port = &host.adapters[0].ports[0];
    assert_eq!((port.number, port.state, port.link_layer.as_str()), (1, 4, "InfiniBand"));
    assert_eq!(port.rate, "400 Gb/sec (4X NDR)");
    assert_eq!(host.adapters[0].interfaces, ["ibs0"]);
    let shown: Vec<_> = host
        .interfaces
        .iter()
        .filter(|interface| interface.name.starts_with("ens"))
        .map(|interface| (interface.speed_mbps, interface.state.as_str(), interface.node()))
        .collect();
    assert_eq!(shown, [(Some(100_000), "up", Some(0)), (None, "down", Some(0))]);
    assert_eq!(topology.notes, ["2 network interfaces are not hardware"]);
    let names: Vec<String> = (0..8).map(|number| format!("mlx5_{number}")).collect();
    assert_eq!(topology.adapter_names(), names);
}

#[test]
fn npus_have_the_numbers_of_their_driver() {
    let topology = found("ascend910b-8npu");
    let places: Vec<String> = topology
        .host
        .accelerators
        .iter()
        .map(|npu| format!("{} {} {:?}", npu.location, npu.pci(), npu.node()))
        .collect();
    let expected = [
        "npu:0 0000:c1:00.0 Some(6)",
        "npu:1 0000:c2:00.0 Some(6)",
        "npu:2 0000:81:00.0 Some(4)",
        "npu:3 0000:82:00.0 Some(4)",
        "npu:4 0000:01:00.0 Some(0)",
        "npu:5 0000:02:00.0 Some(0)",
        "npu:6 0000:41:00.0 Some(2)",
        "npu:7 0000:42:00.0 Some(2)",
    ];
    assert_eq!(places, expected);
    // 0000:83:00.0 is behind the same host bridge as the two of node 4.
    assert_eq!(lists(&topology, "npu:2"), ("mlx5_0".into(), "hns_0".into()));
    assert_eq!(lists(&topology, "npu:0"), ("hns_0 mlx5_0".into(), String::new()));
    let verdicts = &topology.dump()["adapters"];
    assert_eq!(verdicts[1]["name"], "hns_1");
    assert_eq!(verdicts[1]["verdict"], "no port is active");

    // Without the table the order of the bus is all there is, and that is said.
    let tree = SysfsTree::fixture("ascend910b-8npu");
    for entry in fs::read_dir(tree.root().join("bus/pci/devices")).unwrap() {
        let _ = fs::remove_file(entry.unwrap().path().join("devdrv_sysfs_bdf_to_devid"));
    }
    let topology = discover(tree.root(), &Request::default());
    assert_eq!(topology.host.accelerators[0].pci().to_string(), "0000:01:00.0");
    assert!(topology.notes.iter().any(|note| note.contains("order of the bus")), "{topology:?}");
}

#[test]
fn small_hosts() {
    let laptop = found("laptop");
    // The processor's own graphics and the GPU's sound function are no accelerators.
    assert_eq!(laptop.host.accelerators.len(), 1);
    assert_eq!(laptop.host.accelerators[0].node(), None);
    assert_eq!(lists(&laptop, "cuda:0"), (String::new(), String::new()));
    let wireless = laptop.host.interfaces.iter().find(|i| i.name == "wlp0s20f3").unwrap();
    assert_eq!(wireless.speed_mbps, None);
    let vm = found("vm-without-nic");
    assert!(vm.matrix.is_without_adapters() && vm.host.adapters.is_empty());
    // The interface is on the function above its virtio device.
    let eth0 = &vm.host.interfaces[0];
    assert_eq!(
        (eth0.name.as_str(), eth0.pci().unwrap().to_string()),
        ("eth0", "0000:00:03.0".into())
    );
    assert_eq!(vm.notes, ["3 network interfaces are not hardware"]);
}

#[test]
fn virtual_functions_software_and_ports_that_are_down() {
    let topology = found("aarch64-4node");
    let adapter = |name: &str| topology.host.adapters.iter().find(|a| a.name == name).unwrap();
    assert!(adapter("mlx5_2").is_virtual_function && !adapter("mlx5_0").is_virtual_function);
    assert!(!adapter("mlx5_1").is_active());
    assert_eq!((adapter("rxe0").node(), adapter("rxe0").pci()), (None, None));
    assert_eq!(adapter("mlx5_4").pci(), adapter("mlx5_3").pci());
    assert!(!topology.adapter_names().contains(&"mlx5_1"));
    // Natural order: 10 after 4.
    assert_eq!(lists(&topology, "cpu:1").1, "mlx5_0 mlx5_2 mlx5_3 mlx5_4 mlx5_10 rxe0");
}

#[test]
fn filters_leave_adapters_out_and_say_so() {
    let tree = SysfsTree::fixture("h800-8gpu-8nic");
    let filters = vec![" mlx5_1, mlx5_6 ".to_owned(), "mlx5_9".to_owned(), String::new()];
    let request = Request { filters, ..Request::default() };
    let topology = discover(tree.root(), &request);
    assert_eq!(topology.adapter_names(), ["mlx5_1", "mlx5_6"]);
    assert_eq!(lists(&topology, "cuda:0"), ("mlx5_1 mlx5_6".into(), String::new()));
    assert_eq!(lists(&topology, "cuda:6"), ("mlx5_6".into(), "mlx5_1".into()));
    assert!(topology.notes.contains(&"device filter mlx5_9: no such adapter".to_owned()));
    let dump = topology.dump();
    assert_eq!(dump["adapters"][0]["verdict"], "not in the list of device filters");
    assert_eq!(dump["adapters"][1]["verdict"], "used");
    assert_eq!(dump["filters"], json!(["mlx5_1", "mlx5_6", "mlx5_9"]));
}

#[test]
fn a_custom_matrix_from_a_file_or_a_text() {
    let tree = SysfsTree::fixture("vm-without-nic");
    let text = r#"{"cpu:0":[["mlx5_0"],["mlx5_1"]]}"#;
    let path = tree.made("matrix.json");
    fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    let custom = |given: &str| {
        let request = Request { custom: Some(given.to_owned()), ..Request::default() };
        discover(tree.root(), &request)
    };
    for (given, origin) in [(path.as_str(), Origin::File(path.clone())), (text, Origin::Text)] {
        let topology = custom(given);
        assert_eq!(topology.origin, origin);
        assert_eq!(lists(&topology, "cpu:0"), ("mlx5_0".into(), "mlx5_1".into()));
        let strange = |note: &&String| note.contains("this host does not have");
        assert_eq!(topology.notes.iter().filter(strange).count(), 2);
    }
    // What cannot be used is said, and the host's own matrix is taken.
    fs::write(tree.made("bad.json"), "{\"cpu:0\":[[]]}").unwrap();
    fs::write(tree.made("long.json"), " ".repeat(1 << 20)).unwrap();
    fs::write(tree.made("binary.json"), [0xff, 0xfe]).unwrap();
    let at = |name: &str| tree.root().join(name).to_str().unwrap().to_owned();
    for given in [
        "/nowhere/matrix.json".to_owned(),
        at("bad.json"),
        at("long.json"),
        at("binary.json"),
        at("devices"),
        "{\"cpu:0\":5}".to_owned(),
    ] {
        let topology = custom(&given);
        assert_eq!(topology.origin, Origin::Host, "{given}");
        assert!(topology
            .notes
            .iter()
            .any(|note| note.starts_with("the custom matrix is not used")));
        assert_eq!(topology.matrix.to_json(), json!({"cpu:0": [[], []]}));
    }
    let topology = with_matrix(tree.root(), text, &[]).unwrap();
    assert_eq!(topology.origin, Origin::Text);
    assert!(with_matrix(tree.root(), "{", &[]).is_err());
}

#[test]
fn nothing_at_all_is_a_host_too() {
    let tree = SysfsTree::empty();
    for root in [tree.root(), Path::new("/nowhere/at/all")] {
        let topology = discover(root, &Request::default());
        assert_eq!(topology.matrix.to_json(), json!({"cpu:0": [[], []]}));
        assert_eq!(topology.notes.len(), 1, "{:?}", topology.notes);
        assert!(topology.adapter_names().is_empty());
    }
    assert_eq!(Matrix::default().to_text(), "{}\n");
}

#[test]
fn hostile_trees_are_read_without_harm() {
    let tree = SysfsTree::of(
        "devices/system/node/node0/cpulist = 3-1\n\
         devices/system/node/node0/distance = 10 x\n\
         devices/system/node/node5/cpulist = \n\
         devices/system/node/node007/cpulist = 1\n\
         devices/system/node/node99999999999/cpulist = 0\n\
         devices/system/node/node4000/cpulist = 0\n\
         devices/system/node/node-1/cpulist = 0\n\
         devices/system/node/nodes = 5\n\
         devices/pci0000:00/0000:01:00.0/numa_node = -1\n\
         devices/pci0000:00/0000:01:00.0/infiniband/none/x = 1\n\
         devices/pci0000:00/0000:01:00.0/infiniband/odd/ports/1/state = ACTIVE\n\
         devices/pci0000:00/0000:01:00.0/infiniband/odd/ports/x/state = 4: ACTIVE\n\
         devices/pci0000:00/0000:01:00.0/infiniband/minus/ports/1/state = 4: ACTIVE\n\
         devices/pci0000:00/0000:02:00.0/numa_node = 99999999999999999999\n\
         devices/pci0000:00/0000:02:00.0/infiniband/huge/ports/255/state = 4\n\
         devices/pci0000:00/0000:02:00.0/class = 0x030200\n\
         devices/pci0000:00/0000:02:00.0/vendor = 0x10de\n\
         devices/pci0000:00/0000:02:00.0/device = 0x99999999999999999999\n\
         devices/pci0000:00/0000:03:00.0/class = many\n\
         devices/platform/roce/infiniband/chip/ports/1/state = 4: ACTIVE\n\
         class/infiniband/none -> ../../devices/pci0000:00/0000:01:00.0/infiniband/none\n\
         class/infiniband/odd -> ../../devices/pci0000:00/0000:01:00.0/infiniband/odd\n\
         class/infiniband/minus -> ../../devices/pci0000:00/0000:01:00.0/infiniband/minus\n\
         class/infiniband/huge -> ../../devices/pci0000:00/0000:02:00.0/infiniband/huge\n\
         class/infiniband/chip -> ../../devices/platform/roce/infiniband/chip\n\
         class/infiniband/lost -> ../../devices/nowhere\n\
         class/infiniband/loop -> loop\n\
         class/infiniband/away -> /proc/self\n\
         class/infiniband/file = text\n\
         class/infiniband/with\"quote = text\n\
         class/net/bonding_masters = \n\
         class/net/eth0/device -> ../../../devices/nowhere\n\
         bus/pci/devices/0000:02:00.0 -> ../../../devices/pci0000:00/0000:02:00.0\n\
         bus/pci/devices/0000:03:00.0 -> ../../../devices/pci0000:00/0000:03:00.0\n\
         bus/pci/devices/no-address/class = 0x030200\n\
         bus/pci/devices/no-address/vendor = 0x10de\n",
    );
    let strange = OsStr::from_bytes(b"mlx\xff_0");
    symlink("nowhere", tree.root().join("class/infiniband").join(strange)).unwrap();
    fs::write(tree.made("devices/pci0000:00/0000:02:00.0/infiniband/huge/ports/255/rate"), [0xff])
        .unwrap();
    let long = vec![b'x'; 1 << 20];
    fs::write(tree.made("class/infiniband/long/ports/1/state"), long).unwrap();
    let pipe = tree.made("class/infiniband/pipe/ports/1/state");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());

    let topology = discover(tree.root(), &Request::default());
    let names: Vec<&str> = topology.host.adapters.iter().map(|a| a.name.as_str()).collect();
    let expected =
        ["away", "chip", "file", "huge", "long", "loop", "lost", "minus", "none", "odd", "pipe"];
    assert_eq!(names, expected);
    let numbers: Vec<u32> = topology.host.nodes.iter().map(|node| node.number).collect();
    assert_eq!(numbers, [0, 5]);
    assert_eq!((&topology.host.nodes[0].cpus, topology.host.nodes[0].distances.len()), (&None, 0));
    assert_eq!(topology.host.nodes[1].cpus.as_ref().unwrap().count(), 0);
    // Without a node they are near no memory; the GPU is on the bus, and so are two of them.
    assert_eq!(lists(&topology, "cpu:0"), (String::new(), "chip huge minus".into()));
    assert_eq!(lists(&topology, "cuda:0"), ("huge".into(), "chip minus".into()));
    assert_eq!(topology.host.accelerators.len(), 1);
    for text in ["node99999999999", "node4000", "node0: its processors", "2 RDMA adapters are"] {
        let has = topology.notes.iter().any(|note| note.starts_with(text));
        assert!(has, "{text}: {:?}", topology.notes);
    }
    assert!(serde_json::to_string(&topology.dump()).is_ok());
}

#[test]
fn counts_are_bounded() {
    let tree = SysfsTree::empty();
    for number in 0..300 {
        tree.add(&format!("class/infiniband/a{number}/ports/1/state = 4: ACTIVE"));
    }
    for number in 0..40 {
        tree.add(&format!("class/infiniband/a0/ports/{number}/rate = x"));
    }
    let topology = discover(tree.root(), &Request::default());
    assert_eq!(topology.host.adapters.len(), 256);
    assert_eq!(topology.host.adapters[255].name, "a255");
    assert_eq!(topology.host.adapters[0].ports.len(), 32);
    assert!(topology.notes.contains(&"44 RDMA adapters are left out".to_owned()));
    let filters = (0..1000).map(|number| format!("b{number},c{number}")).collect();
    let topology = discover(tree.root(), &Request { filters, ..Request::default() });
    assert_eq!((topology.filters.len(), topology.notes.len()), (256, 257));
    let last = topology.notes.last().unwrap();
    assert!(last.ends_with("further notes are left out"), "{last}");
}

#[test]
fn gpus_of_virtual_machines_are_not_counted() {
    let tree = SysfsTree::fixture("h800-8gpu-8nic");
    let switch = "devices/pci0000:15/0000:15:01.0/0000:16:00.0/0000:17:02.0/0000:1b:00.0";
    fs::remove_file(tree.root().join(switch).join("driver")).unwrap();
    tree.add(&format!("{switch}/driver -> ../../../vfio-pci"));
    let second = "devices/pci0000:37/0000:37:01.0/0000:38:00.0/0000:39:02.0/0000:3d:00.0";
    tree.add(&format!("{second}/physfn -> ../0000:3d:00.1"));
    let topology = discover(tree.root(), &Request::default());
    assert_eq!(topology.host.accelerators.len(), 6);
    assert_eq!(topology.host.accelerators[0].pci().to_string(), "0000:54:00.0");
    let left: Vec<&String> =
        topology.notes.iter().filter(|note| note.contains("is left out")).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn an_engine_shows_its_host_and_why_it_chose() {
    let tree = SysfsTree::fixture("h800-8gpu-8nic");
    let create = |settings: Value| {
        let mut settings = settings;
        settings["local_name"] = "127.0.0.1".into();
        settings["sysfs_path"] = tree.root().to_str().unwrap().into();
        let text = settings.to_string();
        let environment = std::collections::BTreeMap::new();
        let (config, _) = EngineConfig::load(Some(&text), &environment).unwrap();
        Engine::create(config)
    };
    let engine =
        create(json!({"auto_discovery": 1, "device_filters": ["mlx5_0", "mlx5_4"]})).unwrap();
    let dump = engine.dump();
    let topology = &dump["topology"];
    assert_eq!(topology["origin"], "host");
    assert_eq!(topology["matrix"]["cuda:4"], json!([["mlx5_4"], ["mlx5_0"]]));
    assert_eq!(topology["accelerators"][4]["steps_to_adapters"]["mlx5_4"], 4);
    assert_eq!(topology["nodes"][1]["location"], "cpu:1");
    let reasons = dump["engine"]["reasons"].as_array().unwrap();
    let why = "transport tcp: 2 RDMA adapters could be used, \
               but the rdma transport is not part of this build";
    assert!(reasons.iter().any(|reason| reason == why), "{reasons:?}");
    assert_eq!(dump["transports"][0]["name"], "tcp");

    engine.set_preference_matrix(r#"{"cpu:0":[["mlx5_7"],[]]}"#).unwrap();
    assert_eq!(engine.topology().adapter_names(), ["mlx5_7"]);
    assert!(engine.set_preference_matrix("[]").is_err());
    assert_eq!(engine.topology().adapter_names(), ["mlx5_7"]);
    engine.discover_topology();
    assert_eq!(engine.topology().adapter_names(), ["mlx5_0", "mlx5_4"]);

    // With adapters at hand RDMA is refused, as it is not in this build; without them it means TCP.
    assert_eq!(create(json!({"protocol": "rdma"})).err().unwrap().kind(), ErrorKind::Unsupported);
    fs::remove_dir_all(tree.root().join("class/infiniband")).unwrap();
    let engine = create(json!({"protocol": "rdma"})).unwrap();
    assert!(engine.has_transport("tcp"));
    let buffer = vec![1u8; 1 << 20];
    engine
        .register(&[BufferSpec {
            address: buffer.as_ptr() as usize,
            length: buffer.len(),
            location: "*".into(),
            access: Access::ALL,
        }])
        .unwrap();
    // Which node it is depends on this machine; that the member is there does not.
    let first = &engine.dump()["buffers"]["first"][0];
    assert_eq!(first["location"], "*");
    assert!(first.as_object().unwrap().contains_key("node"));
}

#[test]
fn this_host() {
    // Whatever it is, it is described, and the same twice.
    let sysfs = Path::new(mooncake::topology::SYSFS_ROOT);
    assert_eq!(EngineConfig::default().sysfs_path, sysfs.to_str().unwrap());
    let topology = discover(sysfs, &Request::default());
    assert!(!topology.host.nodes.is_empty());
    assert_eq!(topology.matrix, discover(sysfs, &Request::default()).matrix);
}
