"""What Alembic runs: the migrations, on the connection that `upgrade` hands over. Opens none itself."""

from alembic import context

from adapters.books.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
