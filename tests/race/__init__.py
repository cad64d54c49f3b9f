"""The scripts under many contenders at the same instant."""
