//! Placement (to be replaced by the merge of its branch).
use std::sync::Arc;
use actorflow_core::Graph;
use actorflow_core::device_name::DeviceName;
use actorflow_core::error::{Error, Result};
use actorflow_core::graph::NodeId;
/// A device.
#[derive(Debug, Clone)]
pub struct DeviceInfo { /// name
    pub name: DeviceName, /// memory
    pub memory: usize, /// threads
    pub threads: usize, /// incarnation
    pub incarnation: u64 }
/// Costs.
#[derive(Debug, Default)]
pub struct CostModel;
/// Free nodes.
#[derive(Debug, Clone)]
pub enum Free { /// default
    Default, /// cost
    CostModel, /// scatter
    Scatter(u64) }
/// Options.
#[derive(Debug, Clone)]
pub struct PlaceOptions { /// default
    pub default_device: usize, /// soft
    pub soft: bool, /// free
    pub free: Free, /// costs
    pub costs: Option<Arc<CostModel>> }
/// Placement.
#[derive(Debug, Clone)]
pub struct Placement(Vec<usize>);
impl Placement {
    /// device
    pub fn device_of(&self, node: NodeId) -> usize { self.0[node.index()] }
    /// len
    pub fn len(&self) -> usize { self.0.len() }
}
/// Places.
pub fn place(graph: &Graph, devices: &[DeviceInfo], _before: Option<&Placement>, options: &PlaceOptions) -> Result<Placement> {
    graph.nodes().iter().map(|n| {
        if n.device().is_empty() { return Ok(options.default_device); }
        let want: DeviceName = n.device().parse()?;
        devices.iter().position(|d| want.accepts(&d.name)).ok_or_else(|| n.blame(Error::invalid(format!("no device {want}"))))
    }).collect::<Result<_>>().map(Placement)
}
