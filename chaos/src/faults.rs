//! Breaks things as planned, and notes when they were broken.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::{JoinSet, block_in_place};
use tokio::time::sleep;

use crate::client::Notes;
use crate::plan::{Fault, Kind};
use crate::world::World;

/// A fault that was.
#[derive(Clone, Copy, Debug)]
pub struct Outage {
    /// As planned.
    pub fault: Fault,
    /// When it began.
    pub began: Duration,
    /// When it was over.
    pub healed: Duration,
}

/// Breaks everything as planned; returns when all is well again, and what was broken when.
pub async fn inject(world: &Arc<World>, notes: &Arc<Notes>, plan: Vec<Fault>) -> Result<Vec<Outage>> {
    let mut running = JoinSet::new();
    for fault in plan {
        running.spawn(break_once(Arc::clone(world), Arc::clone(notes), fault));
    }
    let mut outages = Vec::new();
    while let Some(ended) = running.join_next().await {
        outages.push(ended??);
    }
    outages.sort_by_key(|outage| outage.began);
    Ok(outages)
}

async fn break_once(world: Arc<World>, notes: Arc<Notes>, fault: Fault) -> Result<Outage> {
    sleep(fault.at.saturating_sub(notes.now())).await;
    // What is being healed still is not broken again.
    let mut victim = world.victims[fault.target.index()].lock().await;
    let began = notes.now();
    eprintln!("{:6.1} s  {fault}", began.as_secs_f64());
    block_in_place(|| victim.harm(fault.kind)).with_context(|| fault.to_string())?;
    if fault.kind != Kind::Cut {
        sleep(fault.lasts).await;
        block_in_place(|| victim.heal(fault.kind)).with_context(|| format!("healing: {fault}"))?;
    }
    Ok(Outage { fault, began, healed: notes.now() })
}
