"""Imports and exports: the products of a store from and to Shopify CSV files, and from connected Shopify stores."""
