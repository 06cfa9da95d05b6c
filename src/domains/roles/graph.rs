//! Roles as a graph: what each grants, and which it inherits from.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use uuid::Uuid;

use crate::kernel::abilities::{self, Abilities, Grant};
use crate::kernel::policy::BUILT_IN;
use crate::proto::rialto::policy::v1::Role as BuiltIn;

/// The fixed id of a built-in role, as the migration has it.
pub fn built_in_id(role: BuiltIn) -> Uuid {
    Uuid::from_u128(0x7000_8000_0000_0000_0000 | u128::from(role as u8))
}

/// The built-in role with this id.
pub fn built_in(id: Uuid) -> Option<BuiltIn> {
    BUILT_IN.iter().map(|(role, _)| *role).find(|role| built_in_id(*role) == id)
}

/// A role in the graph.
#[derive(Debug, Default)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// What it grants by itself.
    pub grants: Vec<Grant>,
    /// What it inherits from.
    pub parents: Vec<Uuid>,
}

/// Every role.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: HashMap<Uuid, Node>,
}

impl Graph {
    /// Of these roles. What built-in ones grant is in the contract.
    pub fn new(mut nodes: HashMap<Uuid, Node>) -> Self {
        for (id, node) in &mut nodes {
            if let Some(role) = built_in(*id) {
                node.grants = abilities::built_in_grants(role);
            }
        }
        Self { nodes }
    }

    /// A role.
    pub fn get(&self, id: Uuid) -> Option<&Node> {
        self.nodes.get(&id)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (Uuid, &Node)> {
        self.nodes.iter().map(|(id, node)| (*id, node))
    }

    /// These roles and all that they inherit from.
    fn closure(&self, roles: &[Uuid]) -> HashSet<Uuid> {
        let mut found = HashSet::new();
        let mut open = roles.to_vec();
        while let Some(id) = open.pop() {
            if let Some(node) = self.nodes.get(&id).filter(|_| found.insert(id)) {
                open.extend(&node.parents);
            }
        }
        found
    }

    /// Whether one of these roles is `ancestor` or inherits from it.
    pub fn inherits(&self, roles: &[Uuid], ancestor: Uuid) -> bool {
        self.closure(roles).contains(&ancestor)
    }

    /// The grants of these roles, and of all that they inherit from.
    pub fn grants(&self, roles: &[Uuid]) -> Vec<Grant> {
        self.closure(roles).iter().filter_map(|id| self.nodes.get(id)).flat_map(|node| node.grants.clone()).collect()
    }

    /// What an account with these roles may do. Administrators can't be locked out by what else they have.
    pub fn abilities(&self, role: BuiltIn, others: &[Uuid]) -> Arc<Abilities> {
        if role == BuiltIn::Admin || others.is_empty() {
            return Abilities::built_in(role);
        }
        let roles = [others, &[built_in_id(role)]].concat();
        Arc::new(Abilities::new(self.grants(&roles)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> Uuid {
        Uuid::from_u128(u128::from(number))
    }

    fn node(permission: &'static str, deny: bool, parents: &[u8]) -> Node {
        let grant = Grant { permission: permission.into(), deny, condition: None };
        Node { grants: vec![grant], parents: parents.iter().map(|parent| id(*parent)).collect(), ..Node::default() }
    }

    #[test]
    fn grants_are_inherited_along_every_way_and_a_denial_too() {
        // A diamond: 4 inherits from 2 and 3, both from 1.
        let graph = Graph::new(HashMap::from([
            (id(1), node("sessions:revoke", false, &[])),
            (id(2), node("messages:send", true, &[1])),
            (id(3), node("conversations:*", false, &[1])),
            (id(4), node("messages:send", false, &[2, 3])),
        ]));
        let abilities = graph.abilities(BuiltIn::User, &[id(4)]);
        assert!(abilities.scope("sessions:revoke").is_some());
        assert!(abilities.scope("conversations:create").is_some());
        assert!(abilities.scope("messages:send").is_none());
        assert!(graph.inherits(&[id(4)], id(1)) && !graph.inherits(&[id(2)], id(3)));
        assert!(graph.abilities(BuiltIn::Admin, &[id(2)]).scope("messages:send").is_some());
    }

    #[test]
    fn the_ids_of_built_in_roles_are_those_of_the_migration() {
        assert_eq!(built_in_id(BuiltIn::Support).to_string(), "00000000-0000-7000-8000-000000000004");
        assert_eq!(built_in(built_in_id(BuiltIn::Admin)), Some(BuiltIn::Admin));
        assert_eq!(built_in(id(1)), None);
    }
}
