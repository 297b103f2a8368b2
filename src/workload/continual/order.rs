//! In which orders tasks are learned.
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use crate::recipe::schema::Continual;

/// Returns the orders of a recipe's tasks: those it names, or the written one, then drawn ones, each another as
/// long as there are any.
pub(super) fn orders(continual: &Continual, seed: u64) -> Vec<Vec<usize>> {
    let tasks = &continual.tasks;
    let place = |name: &String| tasks.iter().position(|task| task.name == *name);
    let mut orders: Vec<Vec<usize>> =
        continual.orders.iter().map(|order| order.iter().filter_map(place).collect()).collect();
    if orders.is_empty() {
        orders.push((0..tasks.len()).collect());
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for _ in 0..continual.task_orders {
        let mut order: Vec<usize> = (0..tasks.len()).collect();
        for _ in 0..100 {
            order.shuffle(&mut random);
            if !orders.contains(&order) {
                break;
            }
        }
        orders.push(order);
    }
    orders
}

#[cfg(test)]
mod tests {
    use super::*;

    fn continual(names: &str, orders: &[&str], task_orders: u32) -> Continual {
        let letters = |text: &str| text.chars().map(String::from).collect::<Vec<_>>();
        let task = |name: String| serde_json::json!({"name": name, "train": "builtin:a", "test": "builtin:b"});
        let tasks: Vec<_> = letters(names).into_iter().map(task).collect();
        let orders: Vec<_> = orders.iter().map(|order| letters(order)).collect();
        let own = serde_json::json!({"tasks": tasks, "orders": orders, "task_orders": task_orders});
        serde_json::from_value(own).unwrap()
    }

    #[test]
    fn orders_are_the_written_ones_and_others() {
        let found = orders(&continual("abcd", &[], 3), 9);
        assert_eq!(found[0], [0, 1, 2, 3]);
        for (at, order) in found.iter().enumerate() {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3]);
            assert!(!found[..at].contains(order));
        }
        assert_eq!((orders(&continual("a", &[], 1), 0).len(), orders(&continual("abcd", &[], 3), 9)), (2, found));
        assert_eq!(orders(&continual("abc", &["cab", "bca"], 0), 0), [[2, 0, 1], [1, 2, 0]]);
    }
}
