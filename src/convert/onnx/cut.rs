//! Where a graph is cut into capsules. Knows numbers only: nodes in the order of computation, the values that they
//! read and make, the weights that they read. The same graph always gives the same cuts.

use std::collections::VecDeque;
use std::ops::Range;

/// Weights of a capsule, in bytes, where nothing else is asked for.
pub const CAPSULE_BYTES: u64 = 32 << 20;

/// How a graph is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutOptions {
    /// Bytes of weights that a capsule is to have at most.
    pub capsule_bytes: u64,
    /// Capsules that are wanted, in place of a size.
    pub capsules: Option<usize>,
}

impl Default for CutOptions {
    fn default() -> Self {
        Self { capsule_bytes: CAPSULE_BYTES, capsules: None }
    }
}

/// A node that can be cut from its neighbours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CutNode {
    /// Values read that other nodes make; numbers below the number of values.
    pub reads: Vec<usize>,
    /// Values made.
    pub makes: Vec<usize>,
    /// Bytes of the weights that no node before it reads.
    pub weight: u64,
}

/// A graph to be cut.
#[derive(Clone, Debug, Default)]
pub struct CutGraph {
    /// The nodes, each behind those whose values it reads.
    pub nodes: Vec<CutNode>,
    /// Bytes that each value is expected to have.
    pub values: Vec<u64>,
}

/// The nodes of each capsule: consecutive ranges that cover all nodes, none empty; one empty range where there are none.
#[must_use]
pub fn cut(graph: &CutGraph, options: &CutOptions) -> Vec<Range<usize>> {
    let nodes = graph.nodes.len();
    let carried = carried_bytes(graph);
    let cuts = match options.capsules {
        Some(wanted) => by_number(graph, &carried, wanted.clamp(1, nodes.max(1))),
        None => by_size(graph, &carried, options.capsule_bytes),
    };
    let starts = std::iter::once(0).chain(cuts.iter().copied());
    let ends = cuts.iter().copied().chain([nodes]);
    starts.zip(ends).map(|(start, end)| start..end).collect()
}

/// For each place between nodes (before node 0, 1, ...) the bytes of the values that a cut there carries.
#[must_use]
pub fn carried_bytes(graph: &CutGraph) -> Vec<u64> {
    let mut last_read = vec![None; graph.values.len()];
    for (number, node) in graph.nodes.iter().enumerate() {
        for value in &node.reads {
            last_read[*value] = Some(number);
        }
    }
    let mut ends = vec![0u64; graph.nodes.len() + 1];
    let mut carried = Vec::with_capacity(graph.nodes.len() + 1);
    let mut now = 0u64;
    for (number, node) in graph.nodes.iter().enumerate() {
        carried.push(now);
        for value in &node.makes {
            // A value that this node alone reads again, or nobody, crosses no cut.
            if let Some(last) = last_read[*value].filter(|last| *last > number) {
                now = now.saturating_add(graph.values[*value]);
                ends[last] = ends[last].saturating_add(graph.values[*value]);
            }
        }
        now = now.saturating_sub(ends[number]);
    }
    carried.push(now);
    carried
}

/// The fewest capsules with at most `limit` bytes of weights each (more only where one node alone has more), and of
/// all such cuts those that carry the fewest bytes.
fn by_size(graph: &CutGraph, carried: &[u64], limit: u64) -> Vec<usize> {
    let nodes = graph.nodes.len();
    // Best way to cut all nodes before each place: capsules, bytes carried, where the last capsule begins.
    let mut best: Vec<(usize, u64, usize)> = vec![(0, 0, 0)];
    // Places at which the capsule that ends at the current place may begin, the best first, then later ones.
    let mut places: VecDeque<usize> = VecDeque::new();
    let (mut first, mut bytes, mut weighty) = (0, 0u64, 0usize);
    for end in 1..=nodes {
        let begin = end - 1;
        let cost = |place: usize, best: &[(usize, u64, usize)]| {
            (best[place].0, best[place].1.saturating_add(carried[place]))
        };
        while places.back().is_some_and(|last| cost(*last, &best) >= cost(begin, &best)) {
            places.pop_back();
        }
        places.push_back(begin);
        bytes = bytes.saturating_add(graph.nodes[begin].weight);
        weighty += usize::from(graph.nodes[begin].weight > 0);
        while bytes > limit && weighty > 1 {
            bytes -= graph.nodes[first].weight;
            weighty -= usize::from(graph.nodes[first].weight > 0);
            first += 1;
        }
        while places.front().is_some_and(|place| *place < first) {
            places.pop_front();
        }
        let place = places.front().copied().unwrap_or(begin);
        let (capsules, total) = cost(place, &best);
        best.push((capsules + 1, total, place));
    }
    let mut cuts = Vec::new();
    let mut place = best[nodes].2;
    while place > 0 {
        cuts.push(place);
        place = best[place].2;
    }
    cuts.reverse();
    cuts
}

/// Exactly `wanted` capsules of about equal weight; each cut moves by at most a quarter of a capsule to where it carries
/// the fewest bytes.
fn by_number(graph: &CutGraph, carried: &[u64], wanted: usize) -> Vec<usize> {
    let nodes = graph.nodes.len();
    let size = sizes(graph, wanted);
    let total = size[nodes];
    let mut ideal: Vec<usize> = (1..wanted)
        .map(|k| {
            let goal = total * k as u128 / wanted as u128;
            let after = size.partition_point(|s| *s < goal);
            let nearer = after > 0 && goal - size[after - 1] < size[after] - goal;
            if nearer { after - 1 } else { after }
        })
        .collect();
    // None empty: each behind the one before, and with a node left for each that follows.
    let mut least = 1;
    for place in &mut ideal {
        *place = least.max(*place);
        least = *place + 1;
    }
    let mut most = nodes;
    for place in ideal.iter_mut().rev() {
        most -= 1;
        *place = most.min(*place);
        most = *place;
    }
    let slack = total / (4 * wanted as u128);
    (0..ideal.len())
        .map(|k| {
            let place = ideal[k];
            let before = if k == 0 { 0 } else { ideal[k - 1] };
            let after = ideal.get(k + 1).copied().unwrap_or(nodes);
            // A quarter of the way to each neighbour: moved cuts never meet.
            let range = place - (place - before) / 4..=place + (after - place) / 4;
            let near = range.filter(|p| size[*p].abs_diff(size[place]) <= slack);
            near.min_by_key(|p| (carried[*p], p.abs_diff(place), *p)).unwrap_or(place)
        })
        .collect()
}

/// Size of all nodes before each place: the bytes of their weights and a small share for every node; nodes alone count
/// where weights are few.
fn sizes(graph: &CutGraph, wanted: usize) -> Vec<u128> {
    /// Weights of a capsule that are worth being balanced.
    const FEW: u128 = 64 << 10;
    let weights: u128 = graph.nodes.iter().map(|n| u128::from(n.weight)).sum();
    let nodes = graph.nodes.len().max(1) as u128;
    let few = weights < FEW * wanted as u128;
    // Nodes together count as much as a sixteenth of the weights.
    let share = if few { 1 } else { (weights / 16 / nodes).max(1) };
    let mut sum = 0;
    let mut sizes = vec![0];
    for node in &graph.nodes {
        sum += share + if few { 0 } else { u128::from(node.weight) };
        sizes.push(sum);
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A random graph: each node reads some of the values made before it.
    fn graphs() -> impl Strategy<Value = CutGraph> {
        let node =
            (proptest::collection::vec(any::<prop::sample::Index>(), 0..4), 1..3usize, 0..5u64, 1..9u64);
        proptest::collection::vec(node, 0..60).prop_map(|nodes| {
            let mut graph = CutGraph::default();
            for (reads, makes, weight, bytes) in nodes {
                let known = graph.values.len();
                let reads = reads.iter().filter(|_| known > 0).map(|i| i.index(known)).collect();
                let makes: Vec<usize> = (known..known + makes).collect();
                graph.values.extend(makes.iter().map(|_| bytes * 100));
                let weight = if weight == 4 { 70 << 10 } else { weight * 10 };
                graph.nodes.push(CutNode { reads, makes, weight });
            }
            graph
        })
    }

    fn covers(graph: &CutGraph, ranges: &[Range<usize>]) {
        let mut next = 0;
        for range in ranges {
            assert_eq!(range.start, next);
            assert!(range.end > range.start || graph.nodes.is_empty(), "{ranges:?}");
            next = range.end;
        }
        assert_eq!(next, graph.nodes.len());
    }

    /// Fewest capsules and then fewest bytes carried, by trying every way.
    fn tried(graph: &CutGraph, carried: &[u64], limit: u64) -> (usize, u64) {
        let mut best = vec![(0usize, 0u64)];
        for end in 1..=graph.nodes.len() {
            let mut found = (usize::MAX, u64::MAX);
            for begin in 0..end {
                let part = &graph.nodes[begin..end];
                let bytes: u64 = part.iter().map(|n| n.weight).sum();
                if bytes <= limit || part.iter().filter(|n| n.weight > 0).count() <= 1 {
                    found = found.min((best[begin].0 + 1, best[begin].1 + carried[begin]));
                }
            }
            best.push(found);
        }
        best[graph.nodes.len()]
    }

    proptest! {
        #[test]
        fn carried_bytes_are_those_made_before_and_read_behind(graph in graphs()) {
            let carried = carried_bytes(&graph);
            for (place, bytes) in carried.iter().enumerate() {
                let (before, behind) = graph.nodes.split_at(place);
                let read = |v: &&usize| behind.iter().any(|n| n.reads.contains(*v));
                let want: u64 = before.iter().flat_map(|n| &n.makes).filter(read).map(|v| graph.values[*v]).sum();
                prop_assert_eq!(*bytes, want, "before node {}", place);
            }
        }

        #[test]
        fn as_many_capsules_as_asked(graph in graphs(), wanted in 0..80usize) {
            let options = CutOptions { capsules: Some(wanted), ..CutOptions::default() };
            let ranges = cut(&graph, &options);
            covers(&graph, &ranges);
            prop_assert_eq!(ranges.len(), wanted.clamp(1, graph.nodes.len().max(1)));
            prop_assert_eq!(ranges, cut(&graph, &options));
        }

        #[test]
        fn the_fewest_capsules_that_carry_the_fewest_bytes(graph in graphs(), limit in 0..400u64) {
            let carried = carried_bytes(&graph);
            let ranges = cut(&graph, &CutOptions { capsule_bytes: limit, capsules: None });
            covers(&graph, &ranges);
            if !graph.nodes.is_empty() {
                let cost: u64 = ranges.iter().map(|r| carried[r.start]).sum();
                prop_assert_eq!((ranges.len(), cost), tried(&graph, &carried, limit));
            }
            for range in &ranges {
                let part = &graph.nodes[range.clone()];
                let bytes: u64 = part.iter().map(|n| n.weight).sum();
                prop_assert!(bytes <= limit || part.iter().filter(|n| n.weight > 0).count() == 1);
            }
        }
    }

    #[test]
    fn cuts_are_where_little_is_carried() {
        // Blocks of four nodes: inside a block much is carried, between blocks little.
        let mut graph = CutGraph::default();
        for number in 0..16usize {
            let reads = number.checked_sub(1).into_iter().collect();
            graph.values.push(if number % 4 == 3 { 10 } else { 1000 });
            graph.nodes.push(CutNode { reads, makes: vec![number], weight: 1 << 20 });
        }
        let ranges = cut(&graph, &CutOptions { capsule_bytes: 5 << 20, capsules: None });
        assert_eq!(ranges, [0..4, 4..8, 8..12, 12..16]);
        let ranges = cut(&graph, &CutOptions { capsules: Some(4), ..CutOptions::default() });
        assert_eq!(ranges, [0..4, 4..8, 8..12, 12..16]);
    }
}
