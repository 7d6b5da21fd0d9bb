"""Commands count the reviews of a product, note when it is published and which product shows an image: triggers no longer do."""

from alembic import op

revision = "0041_summaries_by_commands"
down_revision = "0040_event_sweeps"
branch_labels = None
depends_on = None

_COUNT_STARS = """
    UPDATE products AS p SET rating_counts = ARRAY[
      p.rating_counts[1] {sign} s.one, p.rating_counts[2] {sign} s.two, p.rating_counts[3] {sign} s.three,
      p.rating_counts[4] {sign} s.four, p.rating_counts[5] {sign} s.five]
    FROM (
      SELECT {store}product_id, count(*) FILTER (WHERE rating = 1) AS one, count(*) FILTER (WHERE rating = 2) AS two,
             count(*) FILTER (WHERE rating = 3) AS three, count(*) FILTER (WHERE rating = 4) AS four,
             count(*) FILTER (WHERE rating = 5) AS five
      FROM {table} WHERE status = 'published' GROUP BY {store}product_id
    ) AS s
    WHERE {condition}p.id = s.product_id;
"""
# Reviews are deleted with their author where no command knows their products. Commands count what they delete themselves.
COUNT_CASCADED = f"""
CREATE OR REPLACE FUNCTION storefront_count_reviews() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  {_COUNT_STARS.format(sign="-", table="removed", store="config_id, ", condition="p.config_id = s.config_id AND ")}
  RETURN NULL;
END $$;
CREATE TRIGGER count_cascaded AFTER DELETE ON reviews
  REFERENCING OLD TABLE AS removed FOR EACH STATEMENT WHEN (pg_trigger_depth() > 0) EXECUTE FUNCTION storefront_count_reviews();
"""
FORMER_REVIEW_TRIGGERS = f"""
CREATE OR REPLACE FUNCTION storefront_count_reviews() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP <> 'INSERT' THEN {_COUNT_STARS.format(sign="-", table="removed", store="", condition="")} END IF;
  IF TG_OP <> 'DELETE' THEN {_COUNT_STARS.format(sign="+", table="added", store="", condition="")} END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER count_added AFTER INSERT ON reviews
  REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION storefront_count_reviews();
CREATE TRIGGER count_changed AFTER UPDATE ON reviews
  REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION storefront_count_reviews();
CREATE TRIGGER count_removed AFTER DELETE ON reviews
  REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION storefront_count_reviews();
CREATE FUNCTION storefront_set_review_store() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  SELECT config_id INTO NEW.config_id FROM products WHERE id = NEW.product_id;
  RETURN NEW;
END $$;
CREATE TRIGGER set_store BEFORE INSERT ON reviews
  FOR EACH ROW WHEN (NEW.config_id IS NULL) EXECUTE FUNCTION storefront_set_review_store();
"""
FORMER_PRODUCT_TRIGGERS = """
CREATE FUNCTION storefront_publish_product() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.published_at := now();
  RETURN NEW;
END $$;
CREATE TRIGGER publish_product BEFORE INSERT OR UPDATE OF status ON products
  FOR EACH ROW WHEN (NEW.status = 'active' AND NEW.published_at IS NULL) EXECUTE FUNCTION storefront_publish_product();
CREATE FUNCTION storefront_show_images() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE images SET product_id = NULL
  WHERE product_id = NEW.id AND id <> ALL(array_remove(storefront_image_ids(NEW.images), NULL));
  UPDATE images SET product_id = NEW.id
  WHERE id = ANY(storefront_image_ids(NEW.images)) AND config_id = NEW.config_id AND product_id IS NULL AND swept_at IS NULL;
  RETURN NULL;
END $$;
CREATE TRIGGER show_images AFTER UPDATE OF images ON products
  FOR EACH ROW WHEN (OLD.images IS DISTINCT FROM NEW.images AND (OLD.images || NEW.images)::text LIKE '%/media/%')
  EXECUTE FUNCTION storefront_show_images();
CREATE TRIGGER show_images_of_new AFTER INSERT ON products
  FOR EACH ROW WHEN (NEW.images::text LIKE '%/media/%') EXECUTE FUNCTION storefront_show_images();
"""
REVIEW_TRIGGERS = ("count_added", "count_changed", "count_removed", "set_store")
PRODUCT_TRIGGERS = ("publish_product", "show_images", "show_images_of_new")


def upgrade() -> None:
    """Drop the triggers, but for reviews that are deleted with their author."""
    for table, names in (("reviews", REVIEW_TRIGGERS), ("products", PRODUCT_TRIGGERS)):
        for name in names:
            op.execute(f"DROP TRIGGER {name} ON {table}")
    for function in ("storefront_set_review_store", "storefront_publish_product", "storefront_show_images"):
        op.execute(f"DROP FUNCTION {function}()")
    op.execute(COUNT_CASCADED)


def downgrade() -> None:
    """Create them."""
    op.execute("DROP TRIGGER count_cascaded ON reviews")
    op.execute(FORMER_REVIEW_TRIGGERS)
    op.execute(FORMER_PRODUCT_TRIGGERS)
