"""What derivatives and discretised laws are worked out with: rules of reverse mode, expressions as graphs, and
constructors that simplify."""
