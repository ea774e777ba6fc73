mod hand;
mod transitions;
