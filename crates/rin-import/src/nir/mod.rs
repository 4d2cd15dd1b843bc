//! NIR, the Neuromorphic Intermediate Representation (Pedersen et al., 2024, Nature Communications 15:8122).
//!
//! A graph of nodes in continuous time, stored as HDF5. [`Graph::read`] takes any graph apart; [`to_network`] makes a
//! spiking network of one whose nodes RIN has, which means to choose a time step, a reset and 8-bit weights;
//! [`from_network`] is the way back, and [`Graph::write`] makes a file that the `nir` package reads.

mod from_network;
mod hdf5_writer;
mod linear;
mod to_network;

#[cfg(test)]
mod tests;

pub use from_network::from_network;
pub use to_network::{Discretisation, to_network};

use rin_model::hdf5::{Dataset, Elements, Group, Object};
use rin_model::{Error, Fault};

/// Nodes that a graph may have.
const MAX_NODES: usize = 4096;

/// A node: its kind in NIR's words, and its parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// `LIF`, `Affine`, ….
    pub kind: String,
    /// Parameters by name: arrays and scalars.
    pub parameters: Vec<(String, Dataset)>,
    /// Notes on the node, which no other reader has to know.
    pub metadata: Vec<(String, Dataset)>,
}

impl Node {
    /// A parameter.
    pub fn get(&self, name: &str) -> Option<&Dataset> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, dataset)| dataset)
    }
}

/// A graph whose subgraphs have been put in the place of their nodes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// Nodes by name. Those of a subgraph `s` are called `s.name`.
    pub nodes: Vec<(String, Node)>,
    /// From, to.
    pub edges: Vec<(String, String)>,
    /// Notes on the whole graph: keys and words.
    pub metadata: Vec<(String, String)>,
}

#[expect(clippy::unnecessary_box_returns, reason = "errors hold their fault boxed, which keeps results small")]
fn fault(name: &str, expected: impl Into<String>, found: impl Into<String>) -> Box<Fault> {
    let (name, expected, found) = (name.to_owned(), expected.into(), found.into());
    Box::new(Fault { file: None, section: "NIR graph", name, offset: None, expected, found })
}

impl Graph {
    /// A node by name.
    pub fn get(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|(key, _)| key == name).map(|(_, node)| node)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// What [`rin_model::hdf5::read`] finds; `MissingKey`, `BadType` and `Duplicate` where the file is no NIR graph.
    pub fn read(bytes: &[u8]) -> Result<Self, Error> {
        let root = rin_model::hdf5::read(bytes)?;
        let mut graph = Self::default();
        match root.get("node") {
            Some(Object::Group(node)) => graph.add(node, "")?,
            _ => return Err(Error::MissingKey(fault("node", "a group `node`, as NIR files have it", "none"))),
        }
        Ok(graph)
    }

    /// Writes the graph as an HDF5 file, in the layout of `nir.write`.
    ///
    /// # Errors
    /// When a size is beyond what the format can say.
    pub fn write(&self) -> Result<Vec<u8>, Error> {
        let text = |words: &str| Dataset { shape: Vec::new(), elements: Elements::Strings(vec![words.to_owned()]) };
        let mut nodes = Group::default();
        for (name, node) in &self.nodes {
            let mut group = Group::default();
            let links = |list: &[(String, Dataset)]| -> Vec<(String, Object)> {
                list.iter().map(|(key, dataset)| (key.clone(), Object::Dataset(dataset.clone()))).collect()
            };
            group.links = links(&node.parameters);
            if !node.metadata.is_empty() {
                group.links.push(("metadata".to_owned(), Object::Group(Group { links: links(&node.metadata) })));
            }
            group.links.push(("type".to_owned(), Object::Dataset(text(&node.kind))));
            nodes.links.push((name.clone(), Object::Group(group)));
        }
        let ends = self.edges.iter().flat_map(|(from, to)| [from.clone(), to.clone()]).collect();
        let edges = Dataset { shape: vec![self.edges.len(), 2], elements: Elements::Strings(ends) };
        let mut graph = Group::default();
        graph.links.push(("edges".to_owned(), Object::Dataset(edges)));
        if !self.metadata.is_empty() {
            let words = self.metadata.iter().map(|(key, words)| (key.clone(), Object::Dataset(text(words))));
            graph.links.push(("metadata".to_owned(), Object::Group(Group { links: words.collect() })));
        }
        graph.links.push(("nodes".to_owned(), Object::Group(nodes)));
        graph.links.push(("type".to_owned(), Object::Dataset(text("NIRGraph"))));
        let links =
            vec![("node".to_owned(), Object::Group(graph)), ("version".to_owned(), Object::Dataset(text(VERSION)))];
        hdf5_writer::write(&Group { links })
    }

    /// Adds the nodes and edges of a group, whose names get a prefix.
    fn add(&mut self, group: &Group, prefix: &str) -> Result<(), Error> {
        let at = |name: &str| format!("{prefix}{name}");
        let (Some(Object::Group(nodes)), Some(Object::Dataset(edges))) = (group.get("nodes"), group.get("edges"))
        else {
            return Err(Error::MissingKey(fault(prefix, "a graph with `nodes` and `edges`", "something else")));
        };
        if let (true, Some(Object::Group(metadata))) = (prefix.is_empty(), group.get("metadata")) {
            for (key, value) in &metadata.links {
                if let Object::Dataset(Dataset { elements: Elements::Strings(words), .. }) = value {
                    self.metadata.push((key.clone(), words.join(", ")));
                }
            }
        }
        let mut subgraphs = Vec::new();
        for (name, node) in &nodes.links {
            let Object::Group(node) = node else {
                return Err(Error::BadType(fault(&at(name), "a node", "a dataset")));
            };
            let kind = match node.get("type") {
                Some(Object::Dataset(Dataset { elements: Elements::Strings(words), .. })) => words.first().cloned(),
                _ => None,
            };
            let Some(kind) = kind else {
                return Err(Error::MissingKey(fault(&at(name), "a node with its `type`", "none")));
            };
            if kind == "NIRGraph" {
                subgraphs.push(name.as_str());
                self.add(node, &format!("{}.", at(name)))?;
                continue;
            }
            let datasets = |group: &Group| -> Vec<(String, Dataset)> {
                let dataset = |(key, value): &(String, Object)| match value {
                    Object::Dataset(dataset) if key != "type" => Some((key.clone(), dataset.clone())),
                    _ => None,
                };
                group.links.iter().filter_map(dataset).collect()
            };
            let parameters = datasets(node);
            let metadata = match node.get("metadata") {
                Some(Object::Group(metadata)) => datasets(metadata),
                _ => Vec::new(),
            };
            if self.nodes.len() >= MAX_NODES {
                return Err(Error::BudgetExceeded(fault(&at(name), format!("at most {MAX_NODES} nodes"), "more")));
            }
            self.nodes.push((at(name), Node { kind, parameters, metadata }));
        }
        let Dataset { elements: Elements::Strings(ends), .. } = edges else {
            if edges.shape.first() == Some(&0) {
                return Ok(());
            }
            return Err(Error::BadType(fault(&at("edges"), "pairs of names", "numbers")));
        };
        // An edge to a subgraph leads to its input, one from it comes from its output.
        for pair in ends.as_chunks::<2>().0 {
            let [from, to] = pair;
            let from = if subgraphs.contains(&from.as_str()) { format!("{from}.output") } else { from.clone() };
            let to = if subgraphs.contains(&to.as_str()) { format!("{to}.input") } else { to.clone() };
            self.edges.push((at(&from), at(&to)));
        }
        Ok(())
    }
}

/// The version of the format that is written.
const VERSION: &str = "1.0.8";
