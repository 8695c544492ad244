//! The preference matrix: for each location the adapters to prefer, and the others. Pure.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;

use serde_json::{json, Value};

use super::adapter::Adapter;
use super::filter;
use super::host::Host;

/// Adapters for one location. Both lists together are all that may be used from there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preference {
    /// Those that are near.
    pub preferred: Vec<String>,
    /// The rest.
    pub others: Vec<String>,
}

/// The matrix, in upstream's meaning: locations `cpu:N`, `cuda:N`, `npu:N`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matrix(BTreeMap<String, Preference>);

impl Matrix {
    pub(super) fn new(preferences: BTreeMap<String, Preference>) -> Matrix {
        Matrix(preferences)
    }

    /// The matrix that follows from a host: memory of a node prefers the adapters of that node,
    /// accelerators those that are fewest steps away on the bus. Adapters that the filters exclude
    /// or that carry no traffic are in no list.
    pub fn of_host(host: &Host, filters: &[String]) -> Matrix {
        let used: Vec<&Adapter> = host
            .adapters
            .iter()
            .filter(|adapter| filter::verdict(adapter, filters) == filter::USED)
            .collect();
        let split = |is_near: &dyn Fn(&Adapter) -> bool| {
            let mut preference = Preference::default();
            for adapter in &used {
                let list = match is_near(adapter) {
                    true => &mut preference.preferred,
                    false => &mut preference.others,
                };
                list.push(adapter.name.clone());
            }
            preference
        };
        let mut matrix = BTreeMap::new();
        for node in &host.nodes {
            let preference = split(&|adapter| adapter.node() == Some(node.number));
            matrix.insert(node.location(), preference);
        }
        for accelerator in &host.accelerators {
            let distance = |adapter: &Adapter| host.distance(accelerator, adapter);
            let nearest = used.iter().filter_map(|adapter| distance(adapter)).min();
            let preference = split(&|adapter| nearest.is_some() && distance(adapter) == nearest);
            matrix.insert(accelerator.location.clone(), preference);
        }
        Matrix(matrix)
    }

    /// The adapters for memory at `location`; `None` if the matrix does not know it.
    pub fn get(&self, location: &str) -> Option<&Preference> {
        self.0.get(location)
    }

    /// Locations and their adapters, in byte-wise order of the locations.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Preference)> {
        self.0.iter().map(|(location, preference)| (location.as_str(), preference))
    }

    /// True if no location has an adapter.
    pub fn is_without_adapters(&self) -> bool {
        self.adapter_names().is_empty()
    }

    /// See [`super::Topology::adapter_names`].
    pub fn adapter_names(&self) -> Vec<&str> {
        let mut seen = HashSet::new();
        let lists = self.0.values().flat_map(|both| both.preferred.iter().chain(&both.others));
        lists.map(String::as_str).filter(|name| seen.insert(*name)).collect()
    }

    /// The member `priority_matrix` of a descriptor.
    pub fn to_json(&self) -> Value {
        let entry = |(location, preference): (&String, &Preference)| {
            (location.clone(), json!([preference.preferred, preference.others]))
        };
        Value::Object(self.0.iter().map(entry).collect())
    }

    /// The same as upstream's programs print it, with tabs and a newline at the end.
    pub fn to_text(&self) -> String {
        if self.0.is_empty() {
            return "{}\n".to_owned();
        }
        let quoted = |text: &str| Value::from(text).to_string();
        let list = |names: &[String]| match names {
            [] => "[]".to_owned(),
            names => {
                let lines: Vec<String> =
                    names.iter().map(|name| format!("\t\t\t{}", quoted(name))).collect();
                format!("\n\t\t[\n{}\n\t\t]", lines.join(",\n")).trim_start().to_owned()
            }
        };
        let mut text = "{\n".to_owned();
        for (index, (location, preference)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ",\n" };
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "{comma}\t{} : \n\t[\n\t\t{},\n\t\t{}\n\t]",
                quoted(location),
                list(&preference.preferred),
                list(&preference.others)
            );
        }
        text.push_str("\n}\n");
        text
    }

    /// Notes about adapters that a custom matrix names and the host does not have.
    pub(super) fn strangers(&self, adapters: &[Adapter]) -> Vec<String> {
        let is_strange = |name: &&str| !adapters.iter().any(|adapter| adapter.name == *name);
        let names = self.adapter_names().into_iter().filter(is_strange);
        names
            .map(|name| format!("the matrix names {name}, which this host does not have"))
            .collect()
    }
}
